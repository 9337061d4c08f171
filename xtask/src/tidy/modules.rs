//! The modules of a crate, and which file uses which other file.
//!
//! A file uses another file if its product code names an item that the other file defines: in an
//! import, or in a path of its code. A re-export (`pub use`) leads to the file that defines the
//! item, and does not count as a use itself. Neither does the declaration of a module, nor a module
//! in the middle of a path. Methods do not count, because they have no path. `impl` blocks outside
//! the file of their type do not count either.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::scope::{Import, Item, NamedPath, Scope};
use super::source::Source;

/// Modules of one crate: a library, a program or a suite.
#[derive(Debug)]
pub(super) struct Crate<'s> {
    modules: BTreeMap<Vec<String>, CrateModule<'s>>,
}

/// Module with its file and content.
#[derive(Debug)]
struct CrateModule<'s> {
    file: &'s str,
    scope: &'s Scope,
}

/// Use of an item of another file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use<'s> {
    pub(super) from: &'s str,
    pub(super) line: usize,
    /// Path as the code spells it.
    pub(super) path: String,
    /// File that defines the item.
    pub(super) to: &'s str,
    /// Files of the modules whose re-exports lead to the item.
    pub(super) through: Vec<&'s str>,
}

/// Imports that a search has followed. The search follows each import once, because imports may
/// form a cycle.
type Followed<'s> = Vec<&'s Import>;

/// Place where the item of a path is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Definition<'s> {
    file: &'s str,
    through: Vec<&'s str>,
}

/// Returns every crate of the project.
pub(super) fn crates(sources: &[Source]) -> Vec<Crate<'_>> {
    let files: BTreeMap<&str, &Source> =
        sources.iter().map(|source| (source.file.as_str(), source)).collect();
    let roots = sources.iter().filter(|source| is_root(&source.file));
    roots.map(|source| Crate::read(source, &files)).collect()
}

/// Returns whether a file is the top module of a crate.
fn is_root(file: &str) -> bool {
    let is_rust = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "rs");
    let parts: Vec<_> = file.split('/').collect();
    let outside = |folders: &[&str]| !folders.contains(&"src");
    match parts.as_slice() {
        [folders @ .., "src", "lib.rs" | "main.rs"]
        | [folders @ .., "src", "bin", _, "main.rs"]
        | [folders @ .., "tests", _, "main.rs"] => outside(folders),
        [folders @ .., "src", "bin", name]
        | [folders @ .., "tests" | "examples" | "benches" | "fuzz_targets", name] => {
            is_rust(name) && outside(folders)
        }
        _ => false,
    }
}

impl<'s> Crate<'s> {
    /// Reads the crate whose top module is `root`.
    fn read(root: &'s Source, files: &BTreeMap<&'s str, &'s Source>) -> Self {
        let mut read = Self { modules: BTreeMap::new() };
        let folder = root.file.rsplit_once('/').map_or("", |(folder, _)| folder);
        if let Some(rust) = root.rust() {
            read.add(&[], CrateModule { file: &root.file, scope: &rust.scope }, folder, files);
        }
        read
    }

    /// Adds a module whose child modules have their files in `folder`.
    fn add(
        &mut self,
        path: &[String],
        module: CrateModule<'s>,
        folder: &str,
        files: &BTreeMap<&'s str, &'s Source>,
    ) {
        let (file, scope) = (module.file, module.scope);
        self.modules.insert(path.to_vec(), module);
        for child in &scope.children {
            let mut path = path.to_vec();
            path.push(child.name.clone());
            let folder = format!("{folder}/{}", child.name);
            if let Some(scope) = &child.content {
                self.add(&path, CrateModule { file, scope }, &folder, files);
                continue;
            }
            let own = [format!("{folder}.rs"), format!("{folder}/mod.rs")];
            let found = own.iter().find_map(|name| files.get(name.as_str()));
            if let Some((source, rust)) = found.and_then(|source| Some((*source, source.rust()?))) {
                self.add(&path, CrateModule { file: &source.file, scope: &rust.scope }, &folder, files);
            }
        }
    }

    /// Returns the files of the crate that the product is compiled from.
    pub(super) fn files(&self) -> BTreeSet<&'s str> {
        self.modules.values().map(|module| module.file).collect()
    }

    /// Returns the items of the crate, each with its file.
    pub(super) fn items(&self) -> impl Iterator<Item = (&'s str, &'s Item)> {
        self.modules.values().flat_map(|module| module.scope.items.iter().map(|item| (module.file, item)))
    }

    /// Returns all uses of items of other files, sorted.
    pub(super) fn uses(&self) -> Vec<Use<'s>> {
        let mut all = Vec::new();
        for (place, module) in &self.modules {
            let mut known = BTreeSet::new();
            for import in module.scope.imports.iter().filter(|import| !import.public) {
                if let Some(found) = self.definition(place, &import.path.segments, &mut Followed::new()) {
                    // An imported item counts once, at the import: paths that begin with its name
                    // do not count.
                    known.extend(import.name.as_deref());
                    all.extend(module.uses(&import.path, found));
                }
            }
            for path in &module.scope.paths {
                let is_known = path.segments.first().is_some_and(|first| known.contains(first.as_str()));
                if !is_known && let Some(found) = self.definition(place, &path.segments, &mut Followed::new())
                {
                    all.extend(module.uses(path, found));
                }
            }
        }
        all.sort();
        all.dedup();
        all
    }

    /// Finds the item that `segments` name in the module `place`. Returns nothing for a module, for
    /// an item of another crate and for a local name.
    fn definition(
        &self,
        place: &[String],
        segments: &[String],
        followed: &mut Followed<'s>,
    ) -> Option<Definition<'s>> {
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => self.below(&[], rest, followed),
            "self" => self.below(place, rest, followed),
            "super" => {
                let (_, parent) = place.split_last()?;
                if rest.first().is_some_and(|next| next == "super") {
                    return self.definition(parent, rest, followed);
                }
                self.below(parent, rest, followed)
            }
            _ => self.below(place, segments, followed),
        }
    }

    /// Finds the item at `segments` below the module `place`.
    fn below(
        &self,
        place: &[String],
        segments: &[String],
        followed: &mut Followed<'s>,
    ) -> Option<Definition<'s>> {
        let (first, rest) = segments.split_first()?;
        let module = self.modules.get(place)?;
        if module.scope.children.iter().any(|child| child.name == *first) {
            let mut child = place.to_vec();
            child.push(first.clone());
            return self.below(&child, rest, followed);
        }
        if module.scope.items.iter().any(|item| item.name == *first) {
            return Some(Definition { file: module.file, through: Vec::new() });
        }
        let named = |import: &&Import| import.name.as_ref().is_none_or(|name| name == first);
        module.scope.imports.iter().filter(named).find_map(|import| {
            if followed.iter().any(|known| std::ptr::eq(*known, import)) {
                return None;
            }
            followed.push(import);
            let mut full = import.path.segments.clone();
            if import.name.is_none() {
                full.push(first.clone());
            }
            full.extend_from_slice(rest);
            let mut found = self.definition(place, &full, followed)?;
            found.through.push(module.file);
            Some(found)
        })
    }
}

impl<'s> CrateModule<'s> {
    /// Returns the use of the item that this module names by `path`. Returns nothing if the item is
    /// in the same file.
    fn uses(&self, path: &NamedPath, found: Definition<'s>) -> Option<Use<'s>> {
        let (from, to) = (self.file, found.file);
        let through = found.through.into_iter().filter(|file| *file != from).collect();
        (to != from).then(|| Use { from, line: path.line, path: path.segments.join("::"), to, through })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source::new(file, text)).collect();
        let crates = crates(&sources);
        let all = crates.iter().flat_map(Crate::uses);
        all.map(|used| format!("{}:{} {} {}", used.from, used.line, used.path, used.to)).collect()
    }

    const PARENT: (&str, &str) =
        ("a/src/b/mod.rs", "mod c;\nmod d;\npub(super) use c::Item;\npub fn own() {}\n");

    #[test]
    fn import_leads_to_the_file_that_defines_the_item() {
        let files = [
            ("a/src/lib.rs", "mod b;\nuse b::Item;\nuse crate::b::own;\n"),
            PARENT,
            ("a/src/b/c.rs", "pub(crate) struct Item;\n"),
            ("a/src/b/d.rs", "use super::c::Item;\nuse super::{Item as Other, own};\n"),
        ];
        let expected = [
            "a/src/lib.rs:2 b::Item a/src/b/c.rs",
            "a/src/lib.rs:3 crate::b::own a/src/b/mod.rs",
            "a/src/b/d.rs:1 super::c::Item a/src/b/c.rs",
            "a/src/b/d.rs:2 super::Item a/src/b/c.rs",
            "a/src/b/d.rs:2 super::own a/src/b/mod.rs",
        ];
        let mut all = uses(&files);
        all.sort();
        let mut expected: Vec<_> = expected.map(str::to_owned).into();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn module_name_is_followed_and_is_no_use_itself() {
        let files = [
            ("a/src/lib.rs", "mod b;\nmod e;\n"),
            ("a/src/b.rs", "pub fn f() {}\n"),
            ("a/src/e.rs", "use crate::b;\nfn g() {\n    assert!(b::f());\n    let b = 1; h(b);\n}\n"),
        ];
        assert_eq!(uses(&files), ["a/src/e.rs:3 b::f a/src/b.rs"]);
    }

    #[test]
    fn re_export_counts_only_where_its_name_is_used() {
        let child = ("a/src/c.rs", "pub struct Item;\n");
        assert!(uses(&[("a/src/lib.rs", "mod c;\npub use c::Item;\n"), child]).is_empty());
        let root = "mod c;\npub use c::Item;\nfn f(_: Item) {}\n";
        assert_eq!(uses(&[("a/src/lib.rs", root), child]), ["a/src/lib.rs:3 Item a/src/c.rs"]);
    }

    #[test]
    fn tests_and_other_crates_do_not_count() {
        let files = [
            (
                "a/src/lib.rs",
                "mod b;\nuse std::fs;\nuse other::Item;\n#[cfg(test)]\nmod tests { use super::b::f; }\n",
            ),
            ("a/src/b.rs", "pub fn f() {}\n"),
        ];
        assert!(uses(&files).is_empty());
    }

    #[test]
    fn libraries_programs_and_suites_are_crates() {
        for file in ["a/src/lib.rs", "a/b/src/main.rs", "a/src/bin/c.rs", "a/tests/d.rs", "a/tests/e/main.rs"]
        {
            assert!(is_root(file), "{file}");
        }
        for file in ["a/src/b.rs", "a/src/b/tests/c.rs", "a/tests/e/f.rs", "a/tests/d.md"] {
            assert!(!is_root(file), "{file}");
        }
    }

    #[test]
    fn import_of_itself_ends() {
        assert!(
            uses(&[("a/src/lib.rs", "use self::*;\nuse a::b as a;\nfn f() { c(); a::b(); }\n")]).is_empty()
        );
    }
}
