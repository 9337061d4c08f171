//! Reads the syntax of a Rust file: its items, its imports, its child modules and the paths in its
//! code.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Path such as `std::fs::read`, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
}

/// Name that a `use` brings into a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) path: NamedPath,
    /// Local name. A glob import has none.
    pub(super) name: Option<String>,
    /// Whether other modules may use the name too: a re-export.
    pub(super) public: bool,
}

/// Type, trait, function or value that a module defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) name: String,
    /// Whether it is a struct, an enum, a union, a trait or a type alias.
    pub(super) is_type: bool,
}

/// Child module. A module with its own file has no `content`.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) name: String,
    pub(super) content: Option<Scope>,
}

/// Content of one module in one file.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    pub(super) items: Vec<Item>,
    pub(super) imports: Vec<Import>,
    pub(super) children: Vec<Child>,
    /// Paths in the code, without those of imports. A path may have one segment.
    pub(super) paths: Vec<NamedPath>,
}

impl Scope {
    /// Reads the content of the module of a file.
    pub(super) fn of(file: &syn::File) -> Self {
        let mut reader = ScopeReader::default();
        reader.visit_file(file);
        reader.scope
    }

    /// Returns all paths of two or more segments: of imports, of code, and of inner modules.
    pub(super) fn all_paths(&self) -> Vec<NamedPath> {
        let imported = self.imports.iter().map(|import| &import.path);
        let named = imported.chain(&self.paths).filter(|path| path.segments.len() > 1);
        let mut all: Vec<NamedPath> = named.cloned().collect();
        let inner = self.children.iter().filter_map(|child| child.content.as_ref());
        all.extend(inner.flat_map(Self::all_paths));
        all
    }
}

/// Visitor that collects the content of a module.
#[derive(Default)]
struct ScopeReader {
    scope: Scope,
    /// Depth of nested blocks. An item in a block is not an item of the module.
    blocks: usize,
}

impl ScopeReader {
    /// Adds an item, unless it is in a block.
    fn define(&mut self, name: &Ident, is_type: bool) {
        if self.blocks == 0 {
            let line = name.span().start().line;
            self.scope.items.push(Item { line, name: name.to_string(), is_type });
        }
    }

    /// Adds the imports of a `use` tree below the path `prefix`.
    fn import(&mut self, tree: &syn::UseTree, prefix: &[String], public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                let mut prefix = prefix.to_vec();
                prefix.push(path.ident.to_string());
                self.import(&path.tree, &prefix, public);
            }
            syn::UseTree::Name(name) => self.add_import(prefix, &name.ident, &name.ident, public),
            syn::UseTree::Rename(rename) => self.add_import(prefix, &rename.ident, &rename.rename, public),
            syn::UseTree::Glob(glob) => {
                let line = glob.star_token.spans.first().map_or(1, |span| span.start().line);
                let path = NamedPath { line, segments: prefix.to_vec() };
                self.scope.imports.push(Import { path, name: None, public });
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix, public);
                }
            }
        }
    }

    /// Adds the import of `name` below `prefix`. The module uses the item by the name `local`.
    fn add_import(&mut self, prefix: &[String], name: &Ident, local: &Ident, public: bool) {
        let mut segments = prefix.to_vec();
        let mut local = local.to_string();
        if name == "self" {
            // `a::{self}` imports `a`.
            if local == "self" {
                local = segments.last().cloned().unwrap_or_default();
            }
        } else {
            segments.push(name.to_string());
        }
        let path = NamedPath { line: name.span().start().line, segments };
        self.scope.imports.push(Import { path, name: Some(local), public });
    }
}

impl<'ast> Visit<'ast> for ScopeReader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let content = item.content.as_ref().map(|(_, items)| {
            let mut inner = Self::default();
            for item in items {
                inner.visit_item(item);
            }
            inner.scope
        });
        self.scope.children.push(Child { name: item.ident.to_string(), content });
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let public = !matches!(item.vis, syn::Visibility::Inherited);
        self.import(&item.tree, &[], public);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let segments: Vec<String> =
                path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let line = path.segments.first().map_or(1, |segment| segment.ident.span().start().line);
            self.scope.paths.push(NamedPath { line, segments });
        }
        visit::visit_path(self, path);
    }

    /// A path in `pub(in path)` limits visibility and uses nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.blocks += 1;
        visit::visit_block(self, block);
        self.blocks -= 1;
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        visit::visit_macro(self, invocation);
        self.scope.paths.extend(paths_in_macro(invocation.tokens.clone()));
        if self.blocks == 0 {
            self.scope.items.extend(items_in_macro(invocation.tokens.clone()));
        }
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        match &item.ident {
            // The rules of a macro define no items. Each use of the macro does.
            Some(name) => {
                self.define(name, false);
                self.scope.paths.extend(paths_in_macro(item.mac.tokens.clone()));
            }
            None => visit::visit_item_macro(self, item),
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.define(&item.ident, true);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.define(&item.ident, true);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.define(&item.ident, true);
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.define(&item.ident, true);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.define(&item.ident, true);
        visit::visit_item_type(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.define(&item.sig.ident, false);
        visit::visit_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.define(&item.ident, false);
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.define(&item.ident, false);
        visit::visit_item_static(self, item);
    }
}

/// Returns the paths in the arguments of a macro, which need not be Rust syntax.
fn paths_in_macro(tokens: TokenStream) -> Vec<NamedPath> {
    let mut found: Vec<NamedPath> = Vec::new();
    let mut joined = false;
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(word) => {
                match found.last_mut().filter(|_| joined && colons == 2) {
                    Some(path) => path.segments.push(word.to_string()),
                    None => found
                        .push(NamedPath { line: word.span().start().line, segments: vec![word.to_string()] }),
                }
                joined = true;
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                // The tokens in a group do not extend a path before the group.
                found.extend(paths_in_macro(group.stream()));
                joined = false;
                colons = 0;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                joined = false;
                colons = 0;
            }
        }
    }
    found
}

/// Returns the types and functions that the arguments of a macro define, as in `bitflags!`.
fn items_in_macro(tokens: TokenStream) -> Vec<Item> {
    let mut found = Vec::new();
    let mut before = None;
    for token in tokens {
        if let (TokenTree::Ident(name), Some(keyword)) = (&token, &before) {
            let is_type = matches!(keyword, Keyword::Type);
            found.push(Item { line: name.span().start().line, name: name.to_string(), is_type });
        }
        before = match &token {
            TokenTree::Ident(word) if word == "fn" => Some(Keyword::Function),
            TokenTree::Ident(word) if word == "struct" || word == "enum" || word == "trait" => {
                Some(Keyword::Type)
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) | TokenTree::Group(_) => None,
        };
    }
    found
}

/// Keyword before the name of an item.
enum Keyword {
    Type,
    Function,
}

/// Returns each block of a type in the arguments of a macro, with the name of the type, as in
/// `bitflags! { struct A { ... } }`.
pub(super) fn type_blocks(tokens: TokenStream) -> Vec<(String, TokenStream)> {
    let mut found = Vec::new();
    let mut name = None;
    let mut is_type = false;
    for token in tokens {
        match token {
            TokenTree::Ident(word) if is_type => {
                name = Some(word.to_string());
                is_type = false;
            }
            TokenTree::Ident(word) => is_type = word == "struct" || word == "enum" || word == "impl",
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                found.extend(name.take().map(|name| (name, group.stream())));
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => name = None,
            TokenTree::Punct(_) | TokenTree::Literal(_) | TokenTree::Group(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(code: &str) -> Scope {
        Scope::of(&syn::parse_str(code).unwrap())
    }

    fn found(code: &str) -> Vec<(usize, String)> {
        let all = scope(code).all_paths();
        all.into_iter().map(|path| (path.line, path.segments.join("::"))).collect()
    }

    #[test]
    fn groups_are_expanded_with_their_lines() {
        let expected = [(1, "std::io"), (2, "std::fs::File"), (2, "std::fs::read"), (2, "std::fs")];
        let expected = expected.map(|(line, path)| (line, path.to_owned()));
        assert_eq!(found("use std::{io,\n fs::{File, read as load, self}};"), expected);
    }

    #[test]
    fn imports_know_their_local_name() {
        let imports = scope("pub(super) use a::{b as c, d::*}; use e::{self};").imports;
        let names: Vec<_> = imports.iter().map(|import| (import.name.as_deref(), import.public)).collect();
        assert_eq!(names, [(Some("c"), true), (None, true), (Some("e"), false)]);
    }

    #[test]
    fn comments_and_literals_contain_no_paths() {
        let code = "// a::b\n/* c::d /* e::f */ g::h */ const X: (A, B, C, D) = (\"i::j\", r#\"k::\"l\"#, '\"', b\"m::n\");";
        assert_eq!(found(code), []);
    }

    #[test]
    fn paths_in_types_expressions_and_macros_are_found() {
        let code = "fn f(a: b::C<d::E>) { assert_eq!(g::h(i::j), \"k::l\"); m::n(); }";
        let expected = ["b::C", "d::E", "g::h", "i::j", "m::n"].map(|path| (1, path.to_owned()));
        assert_eq!(found(code), expected);
    }

    #[test]
    fn only_items_of_the_module_are_found() {
        let scope = scope(
            "fn f() { struct Inner; } bitflags! { pub struct A: u8 { const B = 1; } } mod c { enum D {} }",
        );
        let names: Vec<_> = scope.items.iter().map(|item| (item.name.as_str(), item.is_type)).collect();
        assert_eq!(names, [("f", false), ("A", true)]);
        assert_eq!(scope.children[0].content.as_ref().unwrap().items[0].name, "D");
    }
}
