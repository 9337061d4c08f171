//! Collects the functions, constants and variants of the project's types, to check `Type::item` in
//! documents.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::scope::type_blocks;

/// Returns `Type::item` for each item of one file.
pub(super) fn of(file: &syn::File) -> BTreeSet<String> {
    let mut collector = Collector::default();
    collector.visit_file(file);
    collector.found
}

/// Returns `Type::item` if a text in backticks has this form. Arguments in parentheses are ignored.
pub(super) fn named(text: &str) -> Option<&str> {
    let path = text.split('(').next().unwrap_or(text);
    let (owner, item) = path.split_once("::")?;
    let is_type = owner.starts_with(|c: char| c.is_ascii_uppercase()) && is_word(owner);
    (is_type && is_word(item)).then_some(path)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Visitor that collects `Type::item`.
#[derive(Default)]
struct Collector {
    /// Type or trait whose block is being read.
    owner: Option<String>,
    found: BTreeSet<String>,
}

impl Collector {
    /// Adds an item of the current type.
    fn add(&mut self, item: &syn::Ident) {
        self.found.extend(self.owner.as_ref().map(|owner| format!("{owner}::{item}")));
    }

    /// Calls `read` for the content of a block of `owner`.
    fn read_block(&mut self, owner: Option<String>, read: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.owner, owner);
        read(self);
        self.owner = outer;
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.read_block(name_of(&item.self_ty), |inner| visit::visit_item_impl(inner, item));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.read_block(Some(item.ident.to_string()), |inner| visit::visit_item_trait(inner, item));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.read_block(Some(item.ident.to_string()), |inner| visit::visit_item_enum(inner, item));
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.add(&variant.ident);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig.ident);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.add(&item.ident);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.add(&item.sig.ident);
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_trait_item_const(&mut self, item: &'ast syn::TraitItemConst) {
        self.add(&item.ident);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        for (owner, block) in type_blocks(invocation.tokens.clone()) {
            let items = constants_and_functions(block);
            self.found.extend(items.iter().map(|item| format!("{owner}::{item}")));
        }
    }
}

/// Returns the name of a type without its path and its arguments.
pub(super) fn name_of(ty: &syn::Type) -> Option<String> {
    let syn::Type::Path(path) = ty else { return None };
    path.path.segments.last().map(|segment| segment.ident.to_string())
}

/// Returns the names after `const` and `fn` in a block.
fn constants_and_functions(block: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    let mut defines = false;
    for token in block {
        let TokenTree::Ident(word) = token else {
            defines = false;
            continue;
        };
        let keyword = word == "const" || word == "fn";
        if defines && !keyword {
            found.push(word.to_string());
        }
        defines = keyword;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(code: &str) -> Vec<String> {
        of(&syn::parse_str(code).unwrap()).into_iter().collect()
    }

    #[test]
    fn functions_belong_to_the_type_and_not_to_the_trait() {
        let code =
            "impl<F: Fn() -> u8> crate::Job for Worker<F> { fn run(&self) { fn inner() {} } } fn free() {}";
        assert_eq!(items(code), ["Worker::run"]);
    }

    #[test]
    fn traits_variants_and_constants_are_items() {
        let code = "pub trait Sink { fn send(&mut self); } pub(super) enum Body<'a> { Bytes(u8) }\
                    impl Shard { pub(super) const EXPRESS: Self = Self(1); pub const fn next() {} }";
        assert_eq!(items(code), ["Body::Bytes", "Shard::EXPRESS", "Shard::next", "Sink::send"]);
    }

    #[test]
    fn constants_of_a_type_in_a_macro_are_items() {
        let code =
            "bitflags! { /// A.\npub struct Access: u32 { /// Read.\nconst READ = 1; const fn all() {} } }";
        assert_eq!(items(code), ["Access::READ", "Access::all"]);
    }

    #[test]
    fn type_without_a_block_has_no_items_of_the_next() {
        assert_eq!(items("struct A(u8);\n\nimpl B { fn b() {} }"), ["B::b"]);
    }

    #[test]
    fn only_a_type_and_one_item_are_a_name() {
        assert_eq!(named("Ring::begin"), Some("Ring::begin"));
        assert_eq!(named("Body::InPlace(n)"), Some("Body::InPlace"));
        for other in ["ring::begin", "std::fs::File", "A::b::c", "A", "A::", "Vec<u8>::new"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
