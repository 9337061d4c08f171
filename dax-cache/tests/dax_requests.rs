//! Does each request follow the rules at the top of the crate, with each kind of front-end and
//! without a needless step?
#![cfg(test)]

use pinhole_dax_cache::model::{Fault, ModelFrontEnd, PAGE_LEN, Page};
use pinhole_dax_cache::{
    Action, Capabilities, DaxError, Failure, FrontEnd, Geometry, Mapper, Mapping, Mappings, Next, Overlap,
    SLOT_LEN, Wanted, WindowRange,
};

const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

const NODE: u64 = 10;
const OTHER: u64 = 11;
/// A front-end that accepts read-only descriptors, but neither overlaps nor ranges past the end
/// of a file. A future QEMU may be like this.
const STRICT: Capabilities = Capabilities { read_only_descriptors: true, ..Capabilities::qemu() };

/// A table and its front-end, with a record of the messages.
struct Device {
    mappings: Mappings,
    front_end: ModelFrontEnd,
    messages: Vec<String>,
}

impl Mapper for Device {
    fn map(&mut self, mapping: &Mapping) -> Result<(), Failure> {
        let rights = if mapping.writable() { "rw" } else { "ro" };
        self.messages.push(format!("map {} {rights}", slots_text(mapping.range())));
        self.front_end.map(mapping)
    }

    fn unmap(&mut self, range: WindowRange) -> Result<(), Failure> {
        self.messages.push(format!("unmap {}", slots_text(range)));
        self.front_end.unmap(range)
    }
}

/// Returns the first slot and the number of slots as text.
fn slots_text(range: WindowRange) -> String {
    format!("{}+{}", range.offset() / SLOT_LEN, range.len() / SLOT_LEN)
}

impl Device {
    fn new(capabilities: Capabilities) -> Self {
        let geometry = Geometry::new(16 * SLOT_LEN, 21).unwrap();
        let mut front_end = ModelFrontEnd::new(&geometry, capabilities);
        for node in [NODE, OTHER] {
            front_end.set_file_len(node, 32 * SLOT_LEN);
        }
        let mappings = Mappings::new(geometry, &capabilities, usize::MAX);
        Self { mappings, front_end, messages: Vec::new() }
    }

    /// Runs a request to its end.
    fn follow(&mut self, mut next: Next) -> Result<(), DaxError> {
        loop {
            match next {
                Next::Finished(result) => return result,
                Next::Send(step) => {
                    let result = step.execute(self);
                    next = self.mappings.complete(step, result);
                }
            }
        }
    }

    fn setup(&mut self, wanted: Wanted) -> Result<(), DaxError> {
        let next = self.mappings.setup(&wanted);
        self.follow(next)
    }

    /// Removes entries given in slots, not bytes.
    fn remove(&mut self, entries: &[(u64, u64)]) -> Result<(), DaxError> {
        let entries = entries.iter().map(|(offset, len)| (offset * SLOT_LEN, len * SLOT_LEN));
        let next = self.mappings.remove(entries);
        self.follow(next)
    }

    /// Sets the faults of the next steps.
    fn set_faults(&mut self, faults: &[Option<Fault>]) {
        self.front_end.faults = faults.iter().copied().collect();
    }

    /// Takes the messages since the last call.
    fn messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.messages)
    }

    /// Returns the first page of a slot.
    fn at(&self, slot: usize) -> Option<Page> {
        self.front_end.pages()[slot * usize::try_from(SLOT_LEN / PAGE_LEN).unwrap()]
    }
}

/// Returns a read-only mapping of slot `at` of the file at slot `at` of the window.
const fn slot(node: u64, at: u64) -> Wanted {
    slots(node, at, 1)
}

/// Returns a read-only mapping of `count` slots, as [`slot`] does.
const fn slots(node: u64, at: u64, count: u64) -> Wanted {
    let offset = at * SLOT_LEN;
    Wanted { node, file_offset: offset, window_offset: offset, len: count * SLOT_LEN, writable: false }
}

const fn writable(wanted: Wanted) -> Wanted {
    Wanted { writable: true, ..wanted }
}

const NOTHING: [String; 0] = [];

#[test]
fn an_existing_mapping_needs_no_message() {
    for capabilities in [STRICT, Capabilities::replacing()] {
        let mut device = Device::new(capabilities);
        device.setup(slot(NODE, 3)).unwrap();
        assert_eq!(device.messages(), ["map 3+1 ro"]);
        device.setup(slot(NODE, 3)).unwrap();
        device.setup(writable(slot(NODE, 4))).unwrap();
        assert_eq!(device.messages(), ["map 4+1 rw"]);
        device.setup(slot(NODE, 4)).unwrap();
        assert_eq!(device.messages(), NOTHING, "fewer rights than it has");
        assert_eq!(device.mappings.holds(&slot(NODE, 4)), Ok(true));
        assert_eq!(device.mappings.holds(&writable(slot(NODE, 3))), Ok(false));
    }
}

#[test]
fn another_file_offset_is_another_mapping() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 3)).unwrap();
    device.setup(Wanted { file_offset: 0, ..slot(NODE, 3) }).unwrap();
    assert_eq!(device.messages(), ["map 3+1 ro", "unmap 3+1", "map 3+1 ro"]);
    assert_eq!(device.at(3).unwrap().file_offset, 0);
}

#[test]
fn an_upgrade_to_writable_unmaps_first() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 3)).unwrap();
    device.setup(writable(slot(NODE, 3))).unwrap();
    assert_eq!(device.messages(), ["map 3+1 ro", "unmap 3+1", "map 3+1 rw"]);
    assert!(device.at(3).unwrap().writable);
}

#[test]
fn an_upgrade_is_in_place_if_the_front_end_replaces() {
    let mut device = Device::new(Capabilities::replacing());
    device.setup(slot(NODE, 3)).unwrap();
    device.setup(writable(slot(NODE, 3))).unwrap();
    assert_eq!(device.messages(), ["map 3+1 ro", "map 3+1 rw"]);
    assert_eq!(device.mappings.taken(), 1);
}

#[test]
fn a_refused_upgrade_restores_the_old_mapping() {
    for (capabilities, faults, messages) in [
        (STRICT, vec![None, Some(Fault::Refuse)], vec!["unmap 3+1", "map 3+1 rw", "map 3+1 ro"]),
        (Capabilities::replacing(), vec![Some(Fault::RefuseAndEmpty)], vec!["map 3+1 rw", "map 3+1 ro"]),
    ] {
        let mut device = Device::new(capabilities);
        device.setup(slot(NODE, 3)).unwrap();
        device.messages();
        device.set_faults(&faults);
        assert_eq!(device.setup(writable(slot(NODE, 3))), Err(DaxError::Refused));
        assert_eq!(device.messages(), messages);
        assert!(!device.at(3).unwrap().writable);
        assert_eq!(device.mappings.holds(&slot(NODE, 3)), Ok(true));
    }
}

#[test]
fn a_refused_upgrade_and_restore_leave_the_range_empty() {
    let refuse = Some(Fault::Refuse);
    for (capabilities, faults) in [
        (STRICT, vec![None, refuse, refuse]),
        (Capabilities::replacing(), vec![refuse, refuse]),
        (Capabilities::replacing(), vec![Some(Fault::RefuseAndEmpty), refuse]),
    ] {
        let mut device = Device::new(capabilities);
        device.setup(slot(NODE, 3)).unwrap();
        device.set_faults(&faults);
        assert_eq!(device.setup(writable(slot(NODE, 3))).unwrap_err().errno(), EIO);
        assert_eq!((device.at(3), device.mappings.taken()), (None, 0));
    }
}

#[test]
fn another_file_replaces_a_mapping_that_was_not_removed() {
    for capabilities in [STRICT, Capabilities::replacing()] {
        let mut device = Device::new(capabilities);
        device.setup(slot(NODE, 3)).unwrap();
        device.setup(slot(OTHER, 3)).unwrap();
        assert_eq!(device.messages(), ["map 3+1 ro", "unmap 3+1", "map 3+1 ro"]);
        assert_eq!(device.at(3).unwrap().node, OTHER);
        assert_eq!(device.mappings.of_node(NODE).count(), 0);
    }
}

#[test]
fn each_overlapped_mapping_is_unmapped_by_its_own_range() {
    let mut device = Device::new(STRICT);
    for wanted in [slots(NODE, 4, 2), slot(OTHER, 6), slots(NODE, 8, 4)] {
        device.setup(wanted).unwrap();
    }
    device.messages();
    device.setup(slots(OTHER, 4, 8)).unwrap();
    assert_eq!(device.messages(), ["unmap 4+2", "unmap 6+1", "unmap 8+4", "map 4+8 ro"]);
    assert_eq!(device.mappings.taken(), 1);
}

#[test]
fn a_refused_mapping_does_not_restore_another_file() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 3)).unwrap();
    device.front_end.set_file_len(OTHER, 1);
    assert_eq!(device.setup(slot(OTHER, 3)), Err(DaxError::Refused));
    assert_eq!((device.at(3), device.mappings.taken()), (None, 0));
}

#[test]
fn a_mapping_partly_outside_a_range_stays_and_gives_einval() {
    let mut device = Device::new(Capabilities::replacing());
    device.setup(slots(NODE, 4, 4)).unwrap();
    device.messages();
    let partial = DaxError::Partial { offset: 4 * SLOT_LEN, len: 4 * SLOT_LEN };
    for wanted in [slot(NODE, 4), slot(OTHER, 5), slots(OTHER, 7, 2), slots(OTHER, 2, 3)] {
        assert_eq!(device.setup(wanted), Err(partial));
    }
    for entries in [vec![(4, 1)], vec![(7, 5)], vec![(0, 1), (2, 4)]] {
        assert_eq!(device.remove(&entries), Err(partial));
    }
    assert_eq!((device.messages(), partial.errno()), (Vec::new(), EINVAL));
    assert_eq!(device.mappings.holds(&slots(NODE, 4, 4)), Ok(true));
}

#[test]
fn one_entry_removes_every_mapping_that_it_covers() {
    let mut device = Device::new(STRICT);
    for wanted in [slot(NODE, 0), slots(OTHER, 2, 2), slot(NODE, 9)] {
        device.setup(wanted).unwrap();
    }
    device.messages();
    device.remove(&[(0, 8)]).unwrap();
    assert_eq!(device.messages(), ["unmap 0+1", "unmap 2+2"]);
    assert_eq!(
        device.mappings.iter().map(|mapping| mapping.range().offset()).collect::<Vec<_>>(),
        [9 * SLOT_LEN]
    );
}

#[test]
fn a_range_named_twice_is_removed_once() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 2)).unwrap();
    device.messages();
    device.remove(&[(2, 1), (1, 3), (2, 1)]).unwrap();
    assert_eq!(device.messages(), ["unmap 2+1"]);
    device.setup(slot(NODE, 2)).unwrap();
    device.setup(slot(NODE, 5)).unwrap();
    device.messages();
    device.remove(&[(0, 16); 256]).unwrap();
    assert_eq!(device.messages(), ["unmap 2+1", "unmap 5+1"]);
}

#[test]
fn removing_nothing_succeeds_without_a_message() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 2)).unwrap();
    device.messages();
    device.remove(&[(0, 2), (5, 11)]).unwrap();
    device.remove(&[]).unwrap();
    assert_eq!(device.messages(), NOTHING);
}

#[test]
fn one_invalid_entry_prevents_all_removals() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 2)).unwrap();
    device.messages();
    for bad in [(0, 0), (16, 1), (15, 2)] {
        assert_eq!(device.remove(&[(2, 1), bad]).unwrap_err().errno(), EINVAL, "{bad:?}");
    }
    let next = device.mappings.remove([(2 * SLOT_LEN, SLOT_LEN), (0, u64::MAX)].into_iter());
    assert_eq!(device.follow(next).unwrap_err().errno(), EINVAL, "all ones do not mean the whole window");
    assert_eq!((device.messages(), device.mappings.taken()), (Vec::new(), 1));
}

#[test]
fn a_failed_unmap_does_not_stop_other_removals() {
    let mut device = Device::new(STRICT);
    for at in 0..3 {
        device.setup(slot(NODE, at)).unwrap();
    }
    device.messages();
    device.set_faults(&[Some(Fault::Refuse)]);
    assert_eq!(device.remove(&[(0, 3)]), Err(DaxError::Refused));
    assert_eq!(device.messages(), ["unmap 0+1", "unmap 1+1", "unmap 2+1"]);
    assert_eq!((device.mappings.iter().count(), device.mappings.doubtful().count()), (0, 1));
}

#[test]
fn a_doubtful_range_satisfies_nothing_but_counts() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 0)).unwrap();
    device.set_faults(&[Some(Fault::Refuse)]);
    device.remove(&[(0, 1)]).unwrap_err();
    assert_eq!(device.mappings.holds(&slot(NODE, 0)), Ok(false));
    assert_eq!(device.mappings.taken(), 1);
    device.messages();
    device.setup(slot(NODE, 0)).unwrap();
    assert_eq!(device.messages(), ["unmap 0+1", "map 0+1 ro"], "made again");
}

#[test]
fn a_doubtful_range_is_reused_once_shown_free() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 0)).unwrap();
    // The front-end drops all mappings, and nothing tells the table.
    device.front_end.reset();
    device.setup(slot(OTHER, 0)).unwrap();
    assert_eq!(device.messages(), ["map 0+1 ro", "unmap 0+1", "map 0+1 ro"]);
    assert_eq!(device.mappings.doubtful().count(), 0);
}

#[test]
fn nothing_is_mapped_over_doubt_with_an_unknown_effect() {
    let unknown = Capabilities { overlap: Overlap::Unknown, ..STRICT };
    let larger = slots(OTHER, 0, 2);
    for (capabilities, wanted) in [(unknown, slot(OTHER, 0)), (STRICT, larger)] {
        let mut device = Device::new(capabilities);
        device.setup(slot(NODE, 0)).unwrap();
        device.messages();
        device.set_faults(&[Some(Fault::Refuse)]);
        assert_eq!(device.setup(wanted), Err(DaxError::Refused));
        assert_eq!(device.messages(), ["unmap 0+1"]);
        assert_eq!(device.mappings.doubtful().count(), 1);
    }
}

#[test]
fn over_the_smaller_budget_is_enospc() {
    let capabilities = Capabilities { mappings_max: 3, ..STRICT };
    for guest_max in [2, 9] {
        let mut device = Device::new(capabilities);
        device.mappings = Mappings::new(*device.mappings.geometry(), &capabilities, guest_max);
        let max = guest_max.min(3);
        for at in 0..max as u64 {
            device.setup(slot(NODE, at)).unwrap();
        }
        device.messages();
        let spent = DaxError::BudgetSpent { max };
        assert_eq!((device.setup(slot(NODE, 9)), spent.errno()), (Err(spent), ENOSPC));
        assert_eq!(device.messages(), NOTHING);
        device.setup(slot(NODE, 0)).unwrap();
        device.setup(writable(slot(NODE, 0))).unwrap();
        device.setup(slot(OTHER, 1)).unwrap();
        device.remove(&[(0, 1)]).unwrap();
        device.setup(slot(NODE, 9)).unwrap();
    }
}

#[test]
fn drop_node_removes_all_mappings_of_the_node() {
    let mut device = Device::new(STRICT);
    for wanted in [slot(NODE, 1), slot(OTHER, 2), writable(slot(NODE, 3))] {
        device.setup(wanted).unwrap();
    }
    device.messages();
    let next = device.mappings.drop_node(NODE);
    device.follow(next).unwrap();
    assert_eq!(device.messages(), ["unmap 1+1", "unmap 3+1"]);
    assert_eq!(device.mappings.iter().map(|mapping| mapping.node()).collect::<Vec<_>>(), [OTHER]);
}

#[test]
fn drop_node_covers_ranges_that_may_hold_the_node() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 1)).unwrap();
    // The old mapping stays and the new one is not made, but the table cannot know this.
    device.set_faults(&[Some(Fault::Refuse), Some(Fault::GoneBefore)]);
    assert_eq!(device.setup(slot(OTHER, 1)), Err(DaxError::Gone));
    let next = device.mappings.drop_node(NODE);
    assert_eq!(device.follow(next), Err(DaxError::Gone));
    assert_eq!(device.at(1).unwrap().node, NODE);
    let next = device.mappings.clear(FrontEnd::StillMaps);
    device.follow(next).unwrap();
    assert_eq!(device.at(1), None);
}

#[test]
fn only_a_clear_of_existing_mappings_sends_messages() {
    for (front_end, messages) in
        [(FrontEnd::StillMaps, vec!["unmap 1+1", "unmap 2+1"]), (FrontEnd::DroppedAll, vec![])]
    {
        let mut device = Device::new(STRICT);
        device.setup(slot(NODE, 1)).unwrap();
        device.setup(slot(OTHER, 2)).unwrap();
        device.messages();
        let next = device.mappings.clear(front_end);
        device.follow(next).unwrap();
        assert_eq!(
            (device.messages(), device.mappings.taken()),
            (messages.into_iter().map(str::to_owned).collect(), 0)
        );
    }
}

#[test]
fn after_a_missing_reply_nothing_is_sent_until_a_clear() {
    for fault in [Fault::GoneBefore, Fault::GoneAfter] {
        let mut device = Device::new(Capabilities::replacing());
        device.setup(slot(NODE, 1)).unwrap();
        device.set_faults(&[Some(fault)]);
        assert_eq!(device.setup(slot(NODE, 2)), Err(DaxError::Gone));
        device.messages();
        assert_eq!(device.setup(slot(NODE, 2)), Err(DaxError::Gone));
        assert_eq!(device.remove(&[(2, 1)]), Err(DaxError::Gone));
        let next = device.mappings.drop_node(OTHER);
        device.follow(next).unwrap();
        device.setup(slot(NODE, 1)).unwrap();
        assert_eq!((device.messages(), device.mappings.is_gone()), (Vec::new(), true));
        let next = device.mappings.clear(FrontEnd::StillMaps);
        device.follow(next).unwrap();
        assert_eq!(device.messages(), ["unmap 1+1", "unmap 2+1"]);
        assert!(device.front_end.pages().iter().all(Option::is_none));
    }
}

#[test]
fn a_clear_ends_the_request_and_leaves_doubt() {
    let mut device = Device::new(STRICT);
    device.setup(slot(OTHER, 1)).unwrap();
    let Next::Send(step) = device.mappings.setup(&slot(NODE, 2)) else { panic!("no step") };
    assert!(matches!(step.action(), Action::Map(mapping) if mapping.node() == NODE));
    // QEMU drops all mappings. Its reply to the step comes later.
    device.front_end.reset();
    let next = device.mappings.clear(FrontEnd::DroppedAll);
    device.follow(next).unwrap();
    let result = step.execute(&mut device);
    let next = device.mappings.complete(step, result);
    assert_eq!(device.follow(next), Err(DaxError::Cleared));
    let doubtful: Vec<_> = device.mappings.doubtful().map(slots_text).collect();
    assert_eq!((doubtful, device.mappings.iter().count()), (vec!["2+1".to_owned()], 0));
    device.setup(slot(OTHER, 2)).unwrap();
    assert_eq!(device.at(2).unwrap().node, OTHER);
}

#[test]
fn a_second_request_is_busy_unless_it_needs_no_step() {
    let mut device = Device::new(STRICT);
    device.setup(slot(NODE, 1)).unwrap();
    let Next::Send(step) = device.mappings.setup(&slot(NODE, 2)) else { panic!("no step") };
    assert_eq!(device.setup(slot(NODE, 3)), Err(DaxError::Busy));
    assert_eq!(device.remove(&[(1, 1)]), Err(DaxError::Busy));
    assert_eq!(device.setup(slot(NODE, 1)), Ok(()));
    let next = device.mappings.drop_node(NODE);
    assert_eq!(device.follow(next), Err(DaxError::Busy));
    let result = step.execute(&mut device);
    let next = device.mappings.complete(step, result);
    assert_eq!(device.follow(next), Ok(()));
    device.setup(slot(NODE, 3)).unwrap();
}

#[test]
fn many_changes_of_one_slot_leave_one_mapping() {
    let mut device = Device::new(Capabilities::replacing());
    for turn in 0..10_000 {
        device.setup(slot(NODE + turn % 2, 0)).unwrap();
        if turn % 3 == 0 {
            device.remove(&[(0, 1)]).unwrap();
        }
    }
    assert!(device.mappings.taken() <= 1 && device.front_end.mapped() <= 1);
}
