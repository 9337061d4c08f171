//! Tests of layers, whiteouts, hard links and symlinks in paths.

use super::*;
use crate::attributes::Attributes;
use proptest::prelude::*;

fn names(path: &str) -> Vec<&[u8]> {
    split_path(path.as_bytes()).unwrap()
}

fn directory(tree: &mut LayerTree, path: &str) {
    let attributes = Attributes { permissions: 0o700, ..Attributes::default() };
    tree.put_directory(&names(path), attributes).unwrap();
}

fn file(tree: &mut LayerTree, path: &str) {
    tree.put_leaf(&names(path), Attributes::default(), Leaf::Fifo).unwrap();
}

fn symlink(tree: &mut LayerTree, path: &str, target: &str) {
    let leaf = Leaf::Symlink(target.as_bytes().to_vec());
    tree.put_leaf(&names(path), Attributes::default(), leaf).unwrap();
}

/// Returns the paths of a tree: a directory with a slash and its permissions, any other inode with
/// its number.
fn shown(tree: &LayerTree) -> Vec<String> {
    fn add(tree: &LayerTree, at: NodeIndex, path: &str, lines: &mut Vec<String>) {
        let node = tree.node(at).unwrap();
        match &node.body {
            Body::Directory(directory) => {
                lines.push(format!("{path}/ {:o}", node.attributes.permissions));
                for (name, child) in &directory.children {
                    let name = String::from_utf8_lossy(name);
                    add(tree, child.node, &format!("{path}/{name}"), lines);
                }
            }
            Body::Leaf(_) => lines.push(path.to_owned()),
        }
    }
    let mut lines = Vec::new();
    add(tree, ROOT, "", &mut lines);
    lines
}

fn node_at(tree: &mut LayerTree, path: &str) -> NodeIndex {
    let names = names(path);
    let (name, above) = names.split_last().unwrap();
    let parent = tree.find(above).unwrap().unwrap();
    tree.child(parent, name).unwrap().node
}

#[test]
fn whiteout_removes_only_what_lower_layers_have() {
    for is_first in [true, false] {
        let mut tree = LayerTree::new();
        directory(&mut tree, "d");
        file(&mut tree, "d/lower");
        file(&mut tree, "gone");
        tree.next_layer();
        if is_first {
            tree.remove_lower(&names("d")).unwrap();
            tree.remove_lower(&names("gone")).unwrap();
        }
        file(&mut tree, "d/upper");
        if !is_first {
            tree.remove_lower(&names("d")).unwrap();
            tree.remove_lower(&names("gone")).unwrap();
        }
        assert_eq!(shown(&tree), ["/ 755", "/d/ 755", "/d/upper"], "first: {is_first}");
    }
}

#[test]
fn opaque_directory_keeps_its_own_entries_at_any_depth() {
    for is_first in [true, false] {
        let mut tree = LayerTree::new();
        directory(&mut tree, "a/b");
        file(&mut tree, "a/b/old");
        file(&mut tree, "a/old");
        tree.next_layer();
        directory(&mut tree, "a");
        if is_first {
            tree.remove_lower_below(&names("a")).unwrap();
        }
        file(&mut tree, "a/b/new");
        if !is_first {
            tree.remove_lower_below(&names("a")).unwrap();
        }
        assert_eq!(shown(&tree), ["/ 755", "/a/ 700", "/a/b/ 755", "/a/b/new"], "first: {is_first}");
    }
}

#[test]
fn whiteouts_of_missing_names_change_nothing() {
    let mut tree = LayerTree::new();
    file(&mut tree, "a/b");
    tree.next_layer();
    tree.remove_lower(&names("x/y/z")).unwrap();
    tree.remove_lower(&names("a/c")).unwrap();
    tree.remove_lower_below(&names("x")).unwrap();
    assert_eq!(shown(&tree), ["/ 755", "/a/ 755", "/a/b"]);
    assert_eq!(tree.remove_lower(&[]), Err(TreeError::Root));
}

#[test]
fn hard_link_keeps_an_inode_of_a_lower_layer() {
    let mut tree = LayerTree::new();
    file(&mut tree, "a");
    let node = node_at(&mut tree, "a");
    tree.next_layer();
    tree.put_link(&names("d/b"), &names("a")).unwrap();
    tree.remove_lower(&names("a")).unwrap();
    assert_eq!(shown(&tree), ["/ 755", "/d/ 755", "/d/b"]);
    assert_eq!(node_at(&mut tree, "d/b"), node);
    let missing = tree.put_link(&names("c"), &names("a"));
    assert_eq!(missing, Err(TreeError::Link { target: "a".to_owned(), why: "is not there" }));
    let directory = tree.put_link(&names("c"), &names("d"));
    assert_eq!(directory, Err(TreeError::Link { target: "d".to_owned(), why: "is a directory" }));
}

#[test]
fn directory_over_directory_merges_and_other_kinds_replace() {
    let mut tree = LayerTree::new();
    file(&mut tree, "d/kept");
    file(&mut tree, "f");
    symlink(&mut tree, "s", "d");
    tree.next_layer();
    directory(&mut tree, "d");
    directory(&mut tree, "f");
    directory(&mut tree, "s");
    assert_eq!(shown(&tree), ["/ 755", "/d/ 700", "/d/kept", "/f/ 700", "/s/ 700"]);
    tree.next_layer();
    file(&mut tree, "d");
    assert_eq!(shown(&tree), ["/ 755", "/d", "/f/ 700", "/s/ 700"]);
}

#[test]
fn symlink_in_a_path_stays_within_the_tree() {
    let mut tree = LayerTree::new();
    directory(&mut tree, "usr/lib");
    symlink(&mut tree, "lib", "usr/lib");
    symlink(&mut tree, "usr/up", "../../../..");
    symlink(&mut tree, "root", "/usr");
    file(&mut tree, "lib/a");
    file(&mut tree, "usr/up/b");
    file(&mut tree, "root/c");
    let expected =
        ["/ 755", "/b", "/lib", "/root", "/usr/ 755", "/usr/c", "/usr/lib/ 700", "/usr/lib/a", "/usr/up"];
    assert_eq!(shown(&tree), expected);
}

#[test]
fn loop_of_symlinks_is_an_error() {
    let mut tree = LayerTree::new();
    symlink(&mut tree, "a", "b");
    symlink(&mut tree, "b", "a");
    let done = tree.put_leaf(&names("a/x"), Attributes::default(), Leaf::Fifo);
    assert_eq!(done, Err(TreeError::Loop));
    directory(&mut tree, "e");
    symlink(&mut tree, "long", &"e/../".repeat(500));
    let path = "long/".repeat(10) + "x";
    let done = tree.put_leaf(&names(&path), Attributes::default(), Leaf::Fifo);
    assert_eq!(done, Err(TreeError::Loop));
}

#[test]
fn file_in_the_place_of_a_parent_is_an_error() {
    let mut tree = LayerTree::new();
    file(&mut tree, "a");
    let done = tree.put_leaf(&names("a/b"), Attributes::default(), Leaf::Fifo);
    assert_eq!(done, Err(TreeError::NotADirectory { name: "a".to_owned() }));
    assert_eq!(tree.put_leaf(&[], Attributes::default(), Leaf::Fifo), Err(TreeError::Root));
}

#[test]
fn names_that_leave_the_tree_are_refused() {
    let why = |path: &[u8]| match split_path(path) {
        Err(TreeError::Name { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(b"/etc/passwd"), "is absolute");
    assert_eq!(why(b"a/../../b"), "leaves its directory");
    assert_eq!(why(b"a\0b"), "contains a NUL");
    assert_eq!(why(&[b'x'; 256]), "is too long");
    assert_eq!(split_path(b"./a//b/./c/").unwrap(), [b"a", b"b", b"c"]);
    assert_eq!(split_path(b"./").unwrap(), [] as [&[u8]; 0]);
    assert_eq!(split_path(&[b'x'; 255]).unwrap().len(), 1);
    let long = "a/".repeat(2047) + "bb";
    assert!(matches!(split_path(long.as_bytes()), Err(TreeError::Limit { count: 4096, .. })));
    let deep = "a/".repeat(600);
    assert!(matches!(split_path(deep.as_bytes()), Err(TreeError::Limit { count: 600, .. })));
}

#[test]
fn depth_through_symlinks_is_limited() {
    let mut tree = LayerTree::new();
    let half = "d/".repeat(300);
    directory(&mut tree, &half);
    symlink(&mut tree, "deep", &half);
    let path = format!("deep/{half}");
    let done = tree.put_directory(&names(&path), Attributes::default());
    assert!(matches!(done, Err(TreeError::Limit { count: 513, .. })), "{done:?}");
}

/// An entry of a layer: a path of two names and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Directory,
    File,
    Whiteout,
    Opaque,
}

fn changes() -> impl Strategy<Value = BTreeMap<String, Change>> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let change =
        prop::sample::select(vec![Change::Directory, Change::File, Change::Whiteout, Change::Opaque]);
    prop::collection::btree_map(path, change, 0..8)
}

/// Returns the paths of the directories above a path.
fn directories_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}

/// Returns the entries of a layer without those below a file of the same layer.
fn consistent(layer: &BTreeMap<String, Change>) -> Vec<(String, Change)> {
    let is_file = |path: &str| layer.get(path) == Some(&Change::File);
    let entries = layer.iter().filter(|(path, _)| !directories_of(path).any(is_file));
    entries.map(|(path, change)| (path.clone(), *change)).collect()
}

fn apply(tree: &mut LayerTree, path: &str, change: Change) {
    let path = names(path);
    // The path may pass a file of a lower layer. Such a layer is refused in any order.
    let _done = match change {
        Change::Directory => {
            tree.put_directory(&path, Attributes { permissions: 0o700, ..Attributes::default() })
        }
        Change::File => tree.put_leaf(&path, Attributes::default(), Leaf::Fifo),
        Change::Whiteout => tree.remove_lower(&path),
        Change::Opaque => tree.remove_lower_below(&path),
    };
}

proptest! {
    #[test]
    fn whiteouts_act_alike_before_and_behind_other_entries(layers in prop::collection::vec(changes(), 1..4)) {
        let is_removal = |change: Change| matches!(change, Change::Whiteout | Change::Opaque);
        let (mut before, mut behind) = (LayerTree::new(), LayerTree::new());
        for (number, layer) in layers.iter().enumerate() {
            if number > 0 {
                before.next_layer();
                behind.next_layer();
            }
            let entries = consistent(layer);
            // A file of a lower layer in a path is an error, which removals before it may avoid.
            let passes_file = entries.iter().any(|(path, change)| {
                !is_removal(*change) && directories_of(path).any(|above| {
                    let names = names(above);
                    let (name, parent) = names.split_last().unwrap();
                    let parent = behind.find(parent).ok().flatten();
                    let child = parent.and_then(|parent| behind.child(parent, name));
                    child.is_some_and(|child| behind.directory(child.node).is_none())
                        && !entries.iter().any(|(other, change)| other == above && *change == Change::Directory)
                })
            });
            if passes_file {
                break;
            }
            for (path, change) in entries.iter().filter(|(_, change)| is_removal(*change)) {
                apply(&mut before, path, *change);
            }
            for (path, change) in entries.iter().filter(|(_, change)| !is_removal(*change)) {
                apply(&mut before, path, *change);
                apply(&mut behind, path, *change);
            }
            for (path, change) in entries.iter().filter(|(_, change)| is_removal(*change)) {
                apply(&mut behind, path, *change);
            }
        }
        prop_assert_eq!(shown(&before), shown(&behind));
    }
}
