//! The gate: from an operation to a permitted operation.

use crate::{Access, Demand, Move, Moves, PathRules, Place, Places, Policy, Refusal, RuleId};

/// An operation that can say what it needs.
pub trait Gated {
    /// Every access that carrying out the operation uses, wherever; the empty set for housekeeping such as FORGET.
    /// It is checked first, and needs no look at any node.
    fn accesses(&self) -> Access;

    /// The same by place. Asked only under a policy with path rules.
    fn demands(&self, each: &mut dyn FnMut(Demand<'_>));

    /// What it brings under another name: rename, exchange, link.
    fn moves(&self) -> Option<Move<'_>> {
        None
    }
}

/// An operation that has passed the gate. Only [`Policy::permit`] makes one.
#[derive(Debug)]
#[must_use = "a permitted operation that is not carried out leaves its request unanswered"]
pub struct Permitted<Op> {
    operation: Op,
    only_files: bool,
}

impl<Op> Permitted<Op> {
    /// The operation, to be carried out now.
    pub fn into_inner(self) -> Op {
        self.operation
    }

    /// Whether what is moved must not be a directory: then it is EXDEV, see [`Moves::OnlyFiles`].
    pub const fn only_files(&self) -> bool {
        self.only_files
    }
}

/// A refused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The accesses that are not granted; empty where it is the place alone that does not allow it.
    pub missing: Access,
    /// Why, and so what the guest is told.
    pub refusal: Refusal,
}

/// What may not be done at a hidden name, and is no question whether the name is there: EPERM, not ENOENT.
pub(crate) const MAKES_A_NAME: Access = Access::MAKES_OWNED.union(Access::LINK);

impl Policy {
    /// Lets an operation through if every access that it needs is granted, everywhere that it needs it.
    ///
    /// # Errors
    /// [`Denied`] names what is missing; the operation is dropped and nothing has been done.
    pub fn permit<Op: Gated>(&self, operation: Op, places: &impl Places) -> Result<Permitted<Op>, Denied> {
        let missing = operation.accesses().difference(self.reach());
        if !missing.is_empty() {
            return Err(self.lacks(missing));
        }
        let only_files = match self.paths() {
            None => false,
            Some(rules) => ByPlace { policy: self, rules, places }.check(&operation)?,
        };
        Ok(Permitted { operation, only_files })
    }

    fn lacks(&self, missing: Access) -> Denied {
        Denied { missing, refusal: missing.refusal(self.is_read_only()) }
    }
}

/// One look at the places of an operation.
struct ByPlace<'a, P> {
    policy: &'a Policy,
    rules: &'a PathRules,
    places: &'a P,
}

impl<P: Places> ByPlace<'_, P> {
    /// Whether only files may be moved, if it may be done at all.
    fn check(&self, operation: &impl Gated) -> Result<bool, Denied> {
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
        movement.map_or(Ok(false), |movement| self.moved(&movement))
    }

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
        let makes = arrives || demand.access.intersects(MAKES_A_NAME);
        let refusal = if makes { Refusal::NotGranted } else { Refusal::Hidden };
        Some(Denied { missing: demand.access, refusal })
    }

    fn moved(&self, movement: &Move<'_>) -> Result<bool, Denied> {
        let (from, to) = (self.rule(movement.from)?, self.rule(movement.to)?);
        let there = self.rules.moves(from, to);
        let back = if movement.exchange { self.rules.moves(to, from) } else { Moves::Freely };
        match there.max(back) {
            Moves::Freely => Ok(false),
            Moves::OnlyFiles => Ok(true),
            Moves::No => Err(Denied { missing: Access::empty(), refusal: Refusal::OtherRule }),
        }
    }

    /// The rule at a place.
    ///
    /// A place that there is not is refused here. Were it left to the host, a guest that asks for the next node before
    /// there is one, and makes it meanwhile on another queue, would have passed the gate without any rule.
    fn rule(&self, place: Place<'_>) -> Result<RuleId, Denied> {
        let gone = |refusal| Denied { missing: Access::empty(), refusal };
        let node = |node| self.places.node(node).ok_or(gone(Refusal::Stale));
        match place {
            Place::Share => Ok(RuleId::SHARE),
            Place::Node(id) => node(id),
            Place::Handle(handle) => self.places.handle(handle).ok_or(gone(Refusal::NotOpen)),
            Place::Child { directory, name } => Ok(self.rules.child(node(directory)?, name)),
            Place::Unnamed { directory } => Ok(self.rules.unnamed(node(directory)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ACCESSES, NoPlaces, Profile};

    struct Needs(Access);
    impl Gated for Needs {
        fn accesses(&self) -> Access {
            self.0
        }
        fn demands(&self, _: &mut dyn FnMut(Demand<'_>)) {
            panic!("asked about places without path rules");
        }
    }

    fn read_only() -> Policy {
        Policy::full().without_mutations()
    }

    fn refusal(policy: &Policy, access: Access) -> Option<&'static str> {
        policy.permit(Needs(access), &NoPlaces).err().map(|denied| denied.refusal.errno_name())
    }

    #[test]
    fn a_profile_permits_what_it_grants_and_nothing_else() {
        for profile in Profile::ALL {
            for row in ACCESSES {
                let refused = refusal(&Policy::of(profile), row.access);
                assert_eq!(refused.is_none(), profile.granted().contains(row.access), "{}", row.name);
            }
        }
    }

    #[test]
    fn read_only_denies_each_mutation_with_its_reason() {
        for access in (Access::MUTATIONS - Access::IOCTLS).iter() {
            let denied = read_only().permit(Needs(access | Access::STAT), &NoPlaces).err().unwrap();
            assert_eq!(denied, Denied { missing: access, refusal: Refusal::ReadOnly });
        }
    }

    #[test]
    fn read_only_permits_all_that_changes_nothing() {
        assert_eq!(refusal(&read_only(), Access::all() - Access::MUTATIONS), None);
    }

    #[test]
    fn what_a_program_can_do_without_is_refused_as_unsupported() {
        let share = Policy::of(Profile::Share);
        assert_eq!(refusal(&share, Access::XATTR_READ_TRUSTED), Some("EOPNOTSUPP"));
        assert_eq!(refusal(&share, Access::WHITEOUT), Some("EINVAL"));
        assert_eq!(refusal(&share, Access::IOCTL_VERITY), Some("ENOTTY"));
        assert_eq!(refusal(&share, Access::MKNOD_BLOCK), Some("EPERM"));
    }

    #[test]
    fn of_several_answers_the_plainest_is_given() {
        let both = Access::RENAME | Access::EXCHANGE;
        assert_eq!(both.refusal(false).errno_name(), "EPERM");
    }

    #[test]
    fn housekeeping_needs_nothing() {
        assert_eq!(refusal(&read_only(), Access::empty()), None);
    }

    /// Nodes of a share: 1 is the root, 2 a directory with rules below, 3 a file in it, 4 a file of the root.
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

    struct At<'a> {
        demands: Vec<Demand<'a>>,
        movement: Option<Move<'a>>,
    }

    impl Gated for At<'_> {
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

    /// Whether only files may be moved, or the errno.
    fn judged(demands: &[(Place<'_>, Access)], movement: Option<Move<'_>>) -> Result<bool, &'static str> {
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
    fn what_is_done_at_a_place_is_decided_by_the_rule_there() {
        assert_eq!(judged(&[(Place::Node(4), Access::WRITE)], None), Ok(false));
        assert_eq!(judged(&[(Place::Node(3), Access::WRITE)], None), Err("EPERM"));
        assert_eq!(judged(&[(Place::Handle(3), Access::READ)], None), Ok(false));
        assert_eq!(judged(&[(child(2, b"new"), Access::CREATE)], None), Err("EPERM"));
        assert_eq!(judged(&[(Place::Unnamed { directory: 2 }, Access::TMPFILE)], None), Err("EOPNOTSUPP"));
        assert_eq!(judged(&[(Place::Share, Access::STATFS)], None), Ok(false));
        let both = [(Place::Node(3), Access::READ), (Place::Node(4), Access::WRITE)];
        assert_eq!(judged(&both, None), Ok(false));
    }

    #[test]
    fn a_place_that_there_is_not_is_refused() {
        let unnamed = Place::Unnamed { directory: 9 };
        for place in [Place::Node(9), Place::Node(0), child(9, b"a"), unnamed] {
            assert_eq!(judged(&[(place, Access::STAT)], None), Err("ESTALE"), "{place:?}");
        }
        assert_eq!(judged(&[(Place::Handle(9), Access::READ)], None), Err("EBADF"));
        let both = [(Place::Handle(4), Access::READ), (Place::Handle(9), Access::WRITE)];
        assert_eq!(judged(&both, None), Err("EBADF"));
    }

    #[test]
    fn nothing_is_moved_from_or_to_a_place_that_there_is_not() {
        let (there, gone) = (child(1, b"a"), child(9, b"a"));
        for (from, to) in [(there, gone), (gone, there), (gone, gone), (Place::Node(9), there)] {
            for exchange in [false, true] {
                let movement = Some(Move { from, to, exchange });
                assert_eq!(judged(&[], movement), Err("ESTALE"), "{from:?} {to:?}");
            }
        }
    }

    #[test]
    fn a_hidden_name_is_not_there_and_cannot_be_made() {
        assert_eq!(judged(&[(child(1, b"hidden"), Access::LOOKUP)], None), Err("ENOENT"));
        assert_eq!(judged(&[(child(1, b"hidden"), Access::UNLINK)], None), Err("ENOENT"));
        assert_eq!(judged(&[(child(1, b"hidden"), Access::MKDIR)], None), Err("EPERM"));
    }

    fn moved<'a>(from: Place<'a>, to: Place<'a>, exchange: bool) -> Result<bool, &'static str> {
        judged(&[(from, Access::RENAME), (to, Access::RENAME)], Some(Move { from, to, exchange }))
    }

    #[test]
    fn a_rename_goes_only_to_where_nothing_more_is_granted() {
        assert_eq!(moved(child(1, b"a"), child(1, b"b"), false), Ok(false));
        assert_eq!(moved(child(1, b"a"), child(2, b"b"), false), Ok(true), "a file, not a directory");
        assert_eq!(moved(child(2, b"a"), child(1, b"b"), false), Err("EXDEV"));
        assert_eq!(moved(child(1, b"a"), child(2, b"b"), true), Err("EXDEV"), "what comes back would widen");
        assert_eq!(moved(child(1, b"ro"), child(1, b"b"), false), Err("EXDEV"), "what is below would widen");
        assert_eq!(moved(child(1, b"a"), child(1, b"hidden"), false), Err("EPERM"));
        assert_eq!(moved(child(1, b"hidden"), child(1, b"a"), false), Err("ENOENT"));
    }

    #[test]
    fn without_anybody_who_knows_the_rules_nothing_is_granted() {
        let policy = Policy::parse("[[path]]\nmatch = \"/a\"\naccess = []").unwrap();
        let operation =
            At { demands: vec![Demand { place: Place::Node(1), access: Access::STAT }], movement: None };
        assert!(policy.permit(operation, &NoPlaces).is_err());
    }
}
