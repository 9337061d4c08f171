//! The test suites of the workspace, from the output of `cargo metadata`: their modules with tests,
//! and what suites and modules need on the host.
//!
//! A suite is a test binary. The `Cargo.toml` of its package has a line for it in
//! `[package.metadata.suites]`, and may have lines for modules that need more than the rest of the
//! suite.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::guest::Part;
use crate::step::{Failure, Outcome, cannot_start, ended};
use crate::workspace;

/// Test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) name: String,
    /// Path of its first source file.
    pub(crate) source: PathBuf,
    /// Modules with tests directly below the root of the suite, sorted by name. A suite in one file
    /// has no modules.
    pub(crate) modules: Vec<Module>,
    /// What every module of the suite needs.
    pub(crate) needs: Needs,
}

/// Module of a suite that has tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    /// Path of its first source file.
    pub(crate) source: PathBuf,
    /// What the module needs beside the needs of its suite.
    pub(crate) needs: Needs,
}

impl Suite {
    /// Returns what a module of the suite needs, or what all of it needs if `module` is `None`.
    pub(crate) fn needs_of(&self, module: Option<&str>) -> Needs {
        let mut needs = self.needs.clone();
        for module in self.modules.iter().filter(|known| module.is_none_or(|name| known.name == name)) {
            needs.parts.extend(&module.needs.parts);
            needs.programs.extend_from_slice(&module.needs.programs);
        }
        needs.parts.sort_unstable();
        needs.parts.dedup();
        needs.programs.sort_unstable();
        needs.programs.dedup();
        needs
    }
}

/// Parts of the test guests and programs of the host without which a suite fails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) parts: Vec<Part>,
    pub(crate) programs: Vec<String>,
}

/// Returns the suites of all packages, in the order of the workspace. The suites of a package are
/// sorted by name.
///
/// # Errors
/// Fails if cargo fails, if a suite has no line in `[package.metadata.suites]`, or if a line there
/// cannot be understood.
pub(crate) fn all() -> Outcome<Vec<Suite>> {
    let mut command = workspace::cargo();
    command.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
    let output = command.output().map_err(cannot_start(&command))?;
    ended(&command, output.status, &String::from_utf8_lossy(&output.stderr))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::new(format!("cannot read the output of `cargo metadata`: {error}")))?;
    let mut all = Vec::new();
    for member in array(&metadata, "workspace_members") {
        let package = array(&metadata, "packages").iter().find(|package| package["id"] == *member);
        all.extend(package.map_or_else(|| Ok(Vec::new()), |package| of_package(package, modules))?);
    }
    Ok(all)
}

/// Returns the elements of the array `key`. A missing array has no elements.
fn array<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns the suites of a package in the output of `cargo metadata`. `modules` finds the modules
/// of a suite by its first file.
fn of_package(package: &Value, modules: impl Fn(&Path) -> Outcome<Vec<Module>>) -> Outcome<Vec<Suite>> {
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    let place = workspace::within(Path::new(manifest)).display();
    let fault = |what: String| Failure::new(format!("{place}: {what}"));
    let mut declared: BTreeMap<String, Needs> = BTreeMap::new();
    let lines = package.pointer("/metadata/suites").and_then(Value::as_object);
    for (name, line) in lines.into_iter().flatten() {
        declared
            .insert(name.clone(), parse_needs(line).map_err(|what| fault(format!("suite {name}: {what}")))?);
    }
    let mut all = Vec::new();
    for target in array(package, "targets") {
        let name = target["name"].as_str().unwrap_or_default();
        if !array(target, "kind").iter().any(|kind| kind == "test") {
            continue;
        }
        let needs = declared.remove(name).ok_or_else(|| {
            fault(format!("suite {name} has no line in [package.metadata.suites] that says what it needs"))
        })?;
        let source = PathBuf::from(target["src_path"].as_str().unwrap_or_default());
        let mut modules = modules(&source)?;
        for module in &mut modules {
            module.needs = declared.remove(&format!("{name}::{}", module.name)).unwrap_or_default();
        }
        all.push(Suite { name: name.to_owned(), source, modules, needs });
    }
    if let Some(name) = declared.keys().next() {
        let what = "which is neither a test binary nor a module with tests";
        return Err(fault(format!("[package.metadata.suites] names {name}, {what}")));
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Parses a line of `[package.metadata.suites]`: `{ parts = [..], programs = [..] }`.
fn parse_needs(line: &Value) -> Result<Needs, String> {
    let mut needs = Needs::default();
    for (key, values) in line.as_object().ok_or("not a table")? {
        let values = values.as_array().ok_or(format!("{key} is not an array"))?.iter();
        let values: Option<Vec<&str>> = values.map(Value::as_str).collect();
        let values = values.ok_or(format!("{key} has an element that is not a string"))?;
        match key.as_str() {
            "parts" => needs.parts = values.into_iter().map(parse_part).collect::<Result<_, _>>()?,
            "programs" => needs.programs = values.into_iter().map(str::to_owned).collect(),
            _ => return Err(format!("unknown key {key}: use parts or programs")),
        }
    }
    Ok(needs)
}

/// Parses the name of a part of the test guests.
fn parse_part(name: &str) -> Result<Part, String> {
    Part::named(name).ok_or(format!("unknown part {name} (`cargo xtask guest --help` lists them)"))
}

/// Returns the modules with tests of the suite whose first file is `source`.
fn modules(source: &Path) -> Outcome<Vec<Module>> {
    let mut found = Vec::new();
    let Some(folder) = source.parent().filter(|_| source.ends_with("main.rs")) else { return Ok(found) };
    for path in entries(folder)? {
        let first = if path.is_dir() { path.join("mod.rs") } else { path.clone() };
        let is_module = first.extension().is_some_and(|extension| extension == "rs") && first.is_file();
        if let (Some(name), true) = (path.file_stem().and_then(|name| name.to_str()), is_module)
            && path != source
            && has_tests(&path)?
        {
            found.push(Module { name: name.to_owned(), source: first, needs: Needs::default() });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Returns the paths of the entries of a folder.
fn entries(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    read().map_err(Failure::io(format!("cannot read {}", folder.display())))
}

/// Returns whether a file, or any file below a folder, has a test.
fn has_tests(path: &Path) -> Outcome<bool> {
    if path.is_dir() {
        for entry in entries(path)? {
            if has_tests(&entry)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let text = fs::read_to_string(path).map_err(Failure::io(format!("cannot read {}", path.display())))?;
    Ok(text.lines().any(|line| line.trim() == "#[test]"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(suites: &Value) -> Value {
        let target = |kind: &str, name: &str| json!({ "kind": [kind], "name": name, "src_path": "a.rs" });
        json!({
            "manifest_path": workspace::root().join("a/Cargo.toml"),
            "metadata": { "suites": suites },
            "targets": [target("test", "b"), target("lib", "c"), target("test", "a")],
        })
    }

    fn suites(lines: &Value) -> Outcome<Vec<Suite>> {
        let module =
            |name: &str| Module { name: name.to_owned(), source: "m.rs".into(), needs: Needs::default() };
        of_package(&package(lines), |_| Ok(vec![module("m"), module("n")]))
    }

    #[test]
    fn module_has_the_needs_of_its_suite_and_its_own() {
        let lines = json!({
            "a": {},
            "b": { "parts": ["qemu", "base"], "programs": ["perl"] },
            "b::m": { "parts": ["base", "disks"], "programs": ["strace"] },
        });
        let all = suites(&lines).unwrap();
        let names: Vec<&str> = all.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(all[0].needs_of(None), Needs::default());
        let needs = |parts: &[Part], programs: &[&str]| Needs {
            parts: parts.to_vec(),
            programs: programs.iter().map(|program| (*program).to_owned()).collect(),
        };
        let all_parts = [Part::Base, Part::Qemu, Part::Disks];
        assert_eq!(all[1].needs_of(None), needs(&all_parts, &["perl", "strace"]));
        assert_eq!(all[1].needs_of(Some("m")), needs(&all_parts, &["perl", "strace"]));
        assert_eq!(all[1].needs_of(Some("n")), needs(&[Part::Base, Part::Qemu], &["perl"]));
    }

    #[test]
    fn wrong_line_is_an_error_that_names_its_place() {
        let rows = [
            (json!({ "a": {} }), "suite b has no line in [package.metadata.suites] that says what it needs"),
            (
                json!({ "a": {}, "b": {}, "c": {} }),
                "[package.metadata.suites] names c, which is neither a test binary nor a module with tests",
            ),
            (
                json!({ "a": {}, "b": {}, "b::o": {} }),
                "[package.metadata.suites] names b::o, which is neither a test binary nor a module with tests",
            ),
            (json!({ "a": [], "b": {} }), "suite a: not a table"),
            (json!({ "a": { "parts": "base" }, "b": {} }), "suite a: parts is not an array"),
            (json!({ "a": { "parts": [1] }, "b": {} }), "suite a: parts has an element that is not a string"),
            (
                json!({ "a": { "needs": ["x"] }, "b": {} }),
                "suite a: unknown key needs: use parts or programs",
            ),
            (
                json!({ "a": { "parts": ["x"] }, "b": {} }),
                "suite a: unknown part x (`cargo xtask guest --help` lists them)",
            ),
        ];
        for (lines, expected) in rows {
            let failure = suites(&lines).unwrap_err();
            assert_eq!(failure.to_string(), format!("a/Cargo.toml: {expected}"));
        }
    }

    #[test]
    fn module_is_a_file_or_folder_with_a_test() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [
            ("main.rs", "mod a;\n#[test]\n"),
            ("a.rs", "#[test]\nfn f() {}\n"),
            ("scene.rs", "fn f() {}\n"),
            ("notes.txt", "#[test]\n"),
            ("b/mod.rs", "mod inner;\n"),
            ("b/inner.rs", "    #[test]\n"),
            ("scripts/a.py", "#[test]\n"),
        ] {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        }
        let expected = [("a", "a.rs"), ("b", "b/mod.rs")];
        let expected = expected.map(|(name, source)| Module {
            name: name.to_owned(),
            source: path(source),
            needs: Needs::default(),
        });
        assert_eq!(modules(&path("main.rs")).unwrap(), expected);
        assert_eq!(modules(&path("a.rs")).unwrap(), []);
    }
}
