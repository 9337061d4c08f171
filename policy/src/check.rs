//! The policy check: turns an operation into a permitted operation, or refuses it.

use crate::{Access, Demand, Move, Moves, PathRules, Place, Places, Policy, Refusal, RuleId};

/// An operation that states which accesses it needs.
pub trait RequiresAccess {
    /// Returns every access that the operation uses, at any place. Housekeeping such as FORGET uses
    /// none.
    ///
    /// The policy check tests this set first, without looking up a node.
    fn accesses(&self) -> Access;

    /// Calls `each` with the accesses that the operation needs at each place.
    ///
    /// Only a policy with path rules calls this.
    fn demands(&self, each: &mut dyn FnMut(Demand<'_>));

    /// Returns the file that gets another name, by a rename, an exchange or a link.
    fn moves(&self) -> Option<Move<'_>> {
        None
    }
}

/// An operation that passed the policy check. Only [`Policy::permit`] creates one.
#[derive(Debug)]
#[must_use = "a permitted operation that is not carried out leaves its request unanswered"]
pub struct Permitted<Op> {
    operation: Op,
    only_files: bool,
}

impl<Op> Permitted<Op> {
    /// Returns the operation, to carry it out now.
    pub fn into_inner(self) -> Op {
        self.operation
    }

    /// Returns whether the move of a directory must fail with EXDEV; see [`Moves::OnlyFiles`].
    pub const fn only_files(&self) -> bool {
        self.only_files
    }
}

/// A refused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Accesses that are not granted. Empty if the refusal has another reason than the accesses.
    pub missing: Access,
    /// Reason of the refusal, which decides the errno.
    pub refusal: Refusal,
}

/// Operations that make a file or a name. At a hidden name they fail with EPERM instead of ENOENT,
/// because they do not need the name to exist.
pub(crate) const MAKES_NAME: Access = Access::MAKES_OWNED.union(Access::LINK);

impl Policy {
    /// Permits an operation if every access that it needs is granted, at every place that it acts
    /// on.
    ///
    /// # Errors
    /// [`Denied`] says what is missing. The operation is dropped, and nothing has been done.
    pub fn permit<Op: RequiresAccess>(
        &self,
        operation: Op,
        places: &impl Places,
    ) -> Result<Permitted<Op>, Denied> {
        let missing = operation.accesses().difference(self.granted_anywhere());
        if !missing.is_empty() {
            return Err(self.lacks(missing));
        }
        let only_files = match self.paths() {
            None => false,
            Some(rules) => PlaceCheck { policy: self, rules, places }.check(&operation)?,
        };
        Ok(Permitted { operation, only_files })
    }

    /// Returns the refusal of an operation that lacks these accesses.
    fn lacks(&self, missing: Access) -> Denied {
        Denied { missing, refusal: missing.refusal(self.is_read_only()) }
    }
}

/// The check of one operation at each of its places.
struct PlaceCheck<'a, P> {
    policy: &'a Policy,
    rules: &'a PathRules,
    places: &'a P,
}

impl<P: Places> PlaceCheck<'_, P> {
    /// Checks the operation, and returns whether only files may be moved.
    fn check(&self, operation: &impl RequiresAccess) -> Result<bool, Denied> {
        let movement = operation.moves();
        let mut denied = None;
        operation.demands(&mut |demand| {
            if denied.is_none() {
                denied = self.refused(demand, movement.as_ref());
            }
        });
        if let Some(denied) = denied {
            return Err(denied);
        }
        movement.map_or(Ok(false), |movement| self.check_move(&movement))
    }

    /// Returns the refusal of one demand, or `None` if the rule of its place grants the accesses.
    ///
    /// At a hidden place every demand is refused. The errno depends on whether the operation makes
    /// or moves a name to this place.
    fn refused(&self, demand: Demand<'_>, movement: Option<&Move<'_>>) -> Option<Denied> {
        let rule = match self.rule(demand.place) {
            Ok(rule) => rule,
            Err(denied) => return Some(denied),
        };
        if !self.rules.is_hidden(rule) {
            let missing = demand.access.difference(self.rules.access(rule));
            return (!missing.is_empty()).then(|| self.policy.lacks(missing));
        }
        let arrives = movement.is_some_and(|movement| !movement.exchange && movement.to == demand.place);
        let makes = arrives || demand.access.intersects(MAKES_NAME);
        let refusal = if makes { Refusal::NotGranted } else { Refusal::Hidden };
        Some(Denied { missing: demand.access, refusal })
    }

    /// Checks a move, and returns whether only files may be moved.
    fn check_move(&self, movement: &Move<'_>) -> Result<bool, Denied> {
        let (from, to) = (self.rule(movement.from)?, self.rule(movement.to)?);
        let there = self.rules.moves(from, to);
        let back = if movement.exchange { self.rules.moves(to, from) } else { Moves::Freely };
        match there.max(back) {
            Moves::Freely => Ok(false),
            Moves::OnlyFiles => Ok(true),
            Moves::No => Err(Denied { missing: Access::empty(), refusal: Refusal::OtherRule }),
        }
    }

    /// Returns the rule at a place.
    ///
    /// An unknown place is refused here and not left to the operation. Otherwise a guest could send
    /// a node id that does not exist yet, and create the node through another queue meanwhile. The
    /// operation would then reach the node without a check of its rule.
    fn rule(&self, place: Place<'_>) -> Result<RuleId, Denied> {
        let unknown = |refusal| Denied { missing: Access::empty(), refusal };
        let node = |node| self.places.node(node).ok_or(unknown(Refusal::Stale));
        match place {
            Place::Share => Ok(RuleId::SHARE),
            Place::Node(id) => node(id),
            Place::Handle(handle) => self.places.handle(handle).ok_or(unknown(Refusal::NotOpen)),
            Place::Child { directory, name } => Ok(self.rules.child(node(directory)?, name)),
            Place::Unnamed { directory } => Ok(self.rules.unnamed(node(directory)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ACCESSES, NoPlaces, Profile};

    /// An operation that needs these accesses, at no particular place.
    struct Needs(Access);
    impl RequiresAccess for Needs {
        fn accesses(&self) -> Access {
            self.0
        }
        fn demands(&self, _: &mut dyn FnMut(Demand<'_>)) {
            panic!("places were requested without path rules");
        }
    }

    fn read_only() -> Policy {
        Policy::full().without_mutations()
    }

    fn refusal(policy: &Policy, access: Access) -> Option<&'static str> {
        policy.permit(Needs(access), &NoPlaces).err().map(|denied| denied.refusal.errno_name())
    }

    #[test]
    fn profile_permits_exactly_its_accesses() {
        for profile in Profile::ALL {
            for row in ACCESSES {
                let refused = refusal(&Policy::of(profile), row.access);
                assert_eq!(refused.is_none(), profile.granted().contains(row.access), "{}", row.name);
            }
        }
    }

    #[test]
    fn read_only_policy_denies_each_mutation_with_erofs() {
        for access in (Access::MUTATIONS - Access::IOCTLS).iter() {
            let denied = read_only().permit(Needs(access | Access::STAT), &NoPlaces).err().unwrap();
            assert_eq!(denied, Denied { missing: access, refusal: Refusal::ReadOnly });
        }
    }

    #[test]
    fn read_only_policy_permits_every_other_access() {
        assert_eq!(refusal(&read_only(), Access::all() - Access::MUTATIONS), None);
    }

    #[test]
    fn missing_access_decides_the_errno() {
        let share = Policy::of(Profile::Share);
        assert_eq!(refusal(&share, Access::XATTR_READ_TRUSTED), Some("EOPNOTSUPP"));
        assert_eq!(refusal(&share, Access::WHITEOUT), Some("EINVAL"));
        assert_eq!(refusal(&share, Access::IOCTL_VERITY), Some("ENOTTY"));
        assert_eq!(refusal(&share, Access::MKNOD_BLOCK), Some("EPERM"));
    }

    #[test]
    fn eperm_precedes_einval_if_both_apply() {
        let both = Access::RENAME | Access::EXCHANGE;
        assert_eq!(both.refusal(false).errno_name(), "EPERM");
    }

    #[test]
    fn housekeeping_needs_no_access() {
        assert_eq!(refusal(&read_only(), Access::empty()), None);
    }

    /// Nodes of a share: 1 is the root, 2 is a directory with rules below it, 3 is a file in that
    /// directory, 4 is a file in the root.
    struct Nodes<'a>(&'a PathRules);

    impl Places for Nodes<'_> {
        fn node(&self, node: u64) -> Option<RuleId> {
            let root = self.0.root();
            let directory = self.0.child(root, b"ro");
            [root, directory, self.0.child(directory, b"file"), self.0.child(root, b"file")]
                .get(usize::try_from(node).ok()?.checked_sub(1)?)
                .copied()
        }
        fn handle(&self, handle: u64) -> Option<RuleId> {
            self.node(handle)
        }
    }

    /// An operation with these demands and this move.
    struct At<'a> {
        demands: Vec<Demand<'a>>,
        movement: Option<Move<'a>>,
    }

    impl RequiresAccess for At<'_> {
        fn accesses(&self) -> Access {
            self.demands.iter().map(|demand| demand.access).collect()
        }
        fn demands(&self, each: &mut dyn FnMut(Demand<'_>)) {
            for demand in &self.demands {
                each(*demand);
            }
        }
        fn moves(&self) -> Option<Move<'_>> {
            self.movement
        }
    }

    /// Returns whether only files may be moved, or the errno of the refusal.
    fn checked(demands: &[(Place<'_>, Access)], movement: Option<Move<'_>>) -> Result<bool, &'static str> {
        const TEXT: &str = r#"
            [[path]]
            match = "/ro/**"
            access = ["lookup", "stat", "read", "rename", "link"]
            [[path]]
            match = "/hidden"
            hidden = true
        "#;
        let policy = Policy::parse(TEXT).unwrap();
        let demands = demands.iter().map(|(place, access)| Demand { place: *place, access: *access });
        let operation = At { demands: demands.collect(), movement };
        let permitted = policy.permit(operation, &Nodes(policy.paths().unwrap()));
        permitted.map(|permitted| permitted.only_files()).map_err(|denied| denied.refusal.errno_name())
    }

    const fn child(directory: u64, name: &[u8]) -> Place<'_> {
        Place::Child { directory, name }
    }

    #[test]
    fn rule_at_each_place_decides() {
        assert_eq!(checked(&[(Place::Node(4), Access::WRITE)], None), Ok(false));
        assert_eq!(checked(&[(Place::Node(3), Access::WRITE)], None), Err("EPERM"));
        assert_eq!(checked(&[(Place::Handle(3), Access::READ)], None), Ok(false));
        assert_eq!(checked(&[(child(2, b"new"), Access::CREATE)], None), Err("EPERM"));
        assert_eq!(checked(&[(Place::Unnamed { directory: 2 }, Access::TMPFILE)], None), Err("EOPNOTSUPP"));
        assert_eq!(checked(&[(Place::Share, Access::STATFS)], None), Ok(false));
        let both = [(Place::Node(3), Access::READ), (Place::Node(4), Access::WRITE)];
        assert_eq!(checked(&both, None), Ok(false));
    }

    #[test]
    fn unknown_place_is_refused() {
        let unnamed = Place::Unnamed { directory: 9 };
        for place in [Place::Node(9), Place::Node(0), child(9, b"a"), unnamed] {
            assert_eq!(checked(&[(place, Access::STAT)], None), Err("ESTALE"), "{place:?}");
        }
        assert_eq!(checked(&[(Place::Handle(9), Access::READ)], None), Err("EBADF"));
        let both = [(Place::Handle(4), Access::READ), (Place::Handle(9), Access::WRITE)];
        assert_eq!(checked(&both, None), Err("EBADF"));
    }

    #[test]
    fn move_from_or_to_an_unknown_place_is_refused() {
        let (there, gone) = (child(1, b"a"), child(9, b"a"));
        for (from, to) in [(there, gone), (gone, there), (gone, gone), (Place::Node(9), there)] {
            for exchange in [false, true] {
                let movement = Some(Move { from, to, exchange });
                assert_eq!(checked(&[], movement), Err("ESTALE"), "{from:?} {to:?}");
            }
        }
    }

    #[test]
    fn hidden_name_is_missing_and_cannot_be_made() {
        assert_eq!(checked(&[(child(1, b"hidden"), Access::LOOKUP)], None), Err("ENOENT"));
        assert_eq!(checked(&[(child(1, b"hidden"), Access::UNLINK)], None), Err("ENOENT"));
        assert_eq!(checked(&[(child(1, b"hidden"), Access::MKDIR)], None), Err("EPERM"));
    }

    fn checked_rename<'a>(from: Place<'a>, to: Place<'a>, exchange: bool) -> Result<bool, &'static str> {
        checked(&[(from, Access::RENAME), (to, Access::RENAME)], Some(Move { from, to, exchange }))
    }

    #[test]
    fn rename_to_a_place_that_grants_more_is_refused() {
        assert_eq!(checked_rename(child(1, b"a"), child(1, b"b"), false), Ok(false));
        assert_eq!(checked_rename(child(1, b"a"), child(2, b"b"), false), Ok(true), "only files");
        assert_eq!(checked_rename(child(2, b"a"), child(1, b"b"), false), Err("EXDEV"));
        assert_eq!(
            checked_rename(child(1, b"a"), child(2, b"b"), true),
            Err("EXDEV"),
            "the way back grants more"
        );
        assert_eq!(checked_rename(child(1, b"ro"), child(1, b"b"), false), Err("EXDEV"), "grants more below");
        assert_eq!(checked_rename(child(1, b"a"), child(1, b"hidden"), false), Err("EPERM"));
        assert_eq!(checked_rename(child(1, b"hidden"), child(1, b"a"), false), Err("ENOENT"));
    }

    #[test]
    fn no_places_permits_no_node_under_path_rules() {
        let policy = Policy::parse("[[path]]\nmatch = \"/a\"\naccess = []").unwrap();
        let operation =
            At { demands: vec![Demand { place: Place::Node(1), access: Access::STAT }], movement: None };
        assert!(policy.permit(operation, &NoPlaces).is_err());
    }
}
