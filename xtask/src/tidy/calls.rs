//! The functions of a file and the functions that they call, by name.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::items;

/// Function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    /// Type or trait whose block contains it.
    pub(super) owner: Option<String>,
    pub(super) name: String,
    pub(super) calls: Vec<Call>,
}

/// Call of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) line: usize,
    /// Type in `Type::name()`. A method call and a call of a free function have none.
    pub(super) owner: Option<String>,
    pub(super) name: String,
    pub(super) is_method: bool,
}

impl Function {
    /// Returns `Type::name`, or the name of a free function.
    pub(super) fn path(&self) -> String {
        self.owner.as_ref().map_or_else(|| self.name.clone(), |owner| format!("{owner}::{}", self.name))
    }
}

/// Returns the functions of a file. A closure belongs to the function around it.
pub(super) fn of(file: &syn::File) -> Vec<Function> {
    let mut reader = CallReader::default();
    reader.visit_file(file);
    reader.found
}

/// Visitor that collects functions and their calls.
#[derive(Default)]
struct CallReader {
    /// Type or trait whose block is being read.
    owner: Option<String>,
    /// Functions whose bodies are being read, from the outer to the inner.
    open: Vec<Function>,
    found: Vec<Function>,
}

impl CallReader {
    /// Adds the function `name`. `read` visits its body.
    fn read_function(&mut self, name: &syn::Ident, read: impl FnOnce(&mut Self)) {
        let owner = self.owner.clone();
        self.open.push(Function { owner, name: name.to_string(), calls: Vec::new() });
        read(self);
        self.found.extend(self.open.pop());
    }

    /// Calls `read` for the content of a block of `owner`.
    fn read_block(&mut self, owner: Option<String>, read: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.owner, owner);
        read(self);
        self.owner = outer;
    }

    /// Adds the call of the function at `path`.
    fn add_path(&mut self, path: &syn::Path) {
        let mut words = path.segments.iter().rev().map(|segment| &segment.ident);
        if let Some(name) = words.next() {
            let is_type = |word: &&syn::Ident| word.to_string().starts_with(|c: char| c.is_ascii_uppercase());
            let owner = words.next().filter(is_type).map(ToString::to_string);
            self.add_call(name.span().start().line, owner, name.to_string(), false);
        }
    }

    /// Adds a call to the innermost function. A call outside functions is ignored.
    fn add_call(&mut self, line: usize, owner: Option<String>, name: String, is_method: bool) {
        let own = self.owner.clone();
        let owner = owner.and_then(|owner| if owner == "Self" { own } else { Some(owner) });
        if let Some(function) = self.open.last_mut() {
            function.calls.push(Call { line, owner, name, is_method });
        }
    }
}

impl<'ast> Visit<'ast> for CallReader {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = items::name_of(&item.self_ty);
        self.read_block(name, |inner| visit::visit_item_impl(inner, item));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.read_block(Some(item.ident.to_string()), |inner| visit::visit_item_trait(inner, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let read = |inner: &mut Self| visit::visit_item_fn(inner, item);
        self.read_block(None, |inner| inner.read_function(&item.sig.ident, read));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.read_function(&item.sig.ident, |inner| visit::visit_impl_item_fn(inner, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if item.default.is_some() {
            self.read_function(&item.sig.ident, |inner| visit::visit_trait_item_fn(inner, item));
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.add_call(call.method.span().start().line, None, call.method.to_string(), true);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(path) = call.func.as_ref()
            && path.path.segments.len() == 1
        {
            self.add_path(&path.path);
        }
        visit::visit_expr_call(self, call);
    }

    /// A path of several words counts even without arguments, as in `map(Self::decode)`. A path of
    /// one word counts only with arguments, in `visit_expr_call`.
    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if path.path.segments.len() > 1 {
            self.add_path(&path.path);
        }
        visit::visit_expr_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        for (line, name) in methods_in_macro(invocation.tokens.clone()) {
            self.add_call(line, None, name, true);
        }
    }
}

/// Returns the method calls in the arguments of a macro.
fn methods_in_macro(tokens: TokenStream) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let all: Vec<TokenTree> = tokens.into_iter().collect();
    for window in all.windows(3) {
        if let [TokenTree::Punct(dot), TokenTree::Ident(name), TokenTree::Group(group)] = window
            && dot.as_char() == '.'
            && group.delimiter() == Delimiter::Parenthesis
        {
            found.push((name.span().start().line, name.to_string()));
        }
    }
    for token in all {
        if let TokenTree::Group(group) = token {
            found.extend(methods_in_macro(group.stream()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(code: &str) -> Vec<(String, Vec<String>)> {
        let functions = of(&syn::parse_str(code).unwrap());
        let name = |call: &Call| match (&call.owner, call.is_method) {
            (Some(owner), _) => format!("{owner}::{}", call.name),
            (None, true) => format!(".{}", call.name),
            (None, false) => call.name.clone(),
        };
        functions
            .iter()
            .map(|function| (function.path(), function.calls.iter().map(name).collect()))
            .collect()
    }

    #[test]
    fn methods_functions_and_types_are_distinguished() {
        let code = "impl A { fn b(&self) { self.c(); d::E::f; Self::G; h(); i.map(J::k); } }";
        let expected = [".c", "E::f", "A::G", "h", ".map", "J::k"].map(str::to_owned);
        assert_eq!(calls(code), [("A::b".to_owned(), expected.to_vec())]);
    }

    #[test]
    fn calls_in_macros_and_closures_belong_to_their_function() {
        let code = "trait A { fn b(&self) { let _ = || self.c(); d!(e, f.g(h.i())); } fn j(); }";
        let expected = [".c", ".g", ".i"].map(str::to_owned);
        assert_eq!(calls(code), [("A::b".to_owned(), expected.to_vec())]);
    }
}
