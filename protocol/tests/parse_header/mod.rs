//! A parser for the parts of C that `linux/fuse.h` uses: `#define`, `enum`, and structs of
//! fixed-width fields, aligned as in the x86-64 ABI.

use std::collections::BTreeMap;

/// A parsed header.
pub(crate) struct KernelHeader {
    /// Structs by name.
    pub(crate) structs: BTreeMap<String, KernelStruct>,
    /// Constants by name. `None` if the value is not a number.
    pub(crate) constants: BTreeMap<String, Option<u64>>,
}

/// The layout of one struct.
pub(crate) struct KernelStruct {
    /// Length in bytes.
    pub(crate) size: usize,
    /// Alignment in bytes.
    pub(crate) align: usize,
    /// Name and byte offset of each field, without flexible arrays.
    pub(crate) fields: Vec<(String, usize)>,
}

impl KernelHeader {
    /// Parses the text of a header. Panics on anything that `linux/fuse.h` does not use.
    pub(crate) fn parse(text: &str) -> Self {
        let text = without_comments(text).replace("\\\n", " ");
        let mut header = Self { structs: BTreeMap::new(), constants: BTreeMap::new() };
        for line in text.lines() {
            if let Some(define) = line.strip_prefix("#define ") {
                header.take_define(define);
            }
        }
        let without_directives: String =
            text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let mut rest = without_directives.as_str();
        while let Some((head, after)) = rest.split_once('{') {
            let (body, tail) = after.split_once("};").expect("a block that ends");
            let mut words = head.split_whitespace().rev();
            let name = words.next().expect("a name before {").to_owned();
            match words.next() {
                Some("struct") => header.take_struct(name, body),
                Some("enum") => header.take_enum(body),
                kind => panic!("{name}: {kind:?}"),
            }
            rest = tail;
        }
        header
    }

    /// Adds the constant of a `#define`.
    fn take_define(&mut self, define: &str) {
        let (name, value) = define.split_once([' ', '\t']).unwrap_or((define, ""));
        let value = value.trim();
        let (name, value) = match name.split_once('(') {
            Some((name, _argument)) => (name, None),
            None => (name, self.number(value)),
        };
        // Only the include guard begins with an underscore.
        if !name.starts_with('_') {
            self.constants.insert(name.to_owned(), value);
        }
    }

    /// Adds the constants of an `enum`.
    fn take_enum(&mut self, body: &str) {
        for item in body.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').expect("every item has a number");
            let value = self.number(value.trim());
            self.constants.insert(name.trim().to_owned(), value);
        }
    }

    /// Evaluates `12`, `(1 << 3)`, `(1ULL << 40)`, or the name of an earlier constant.
    fn number(&self, text: &str) -> Option<u64> {
        let text = text.trim_start_matches('(').trim_end_matches(')');
        let literal = |text: &str| text.trim().trim_end_matches(['U', 'L', 'u', 'l']).parse::<u64>().ok();
        match text.split_once("<<") {
            Some((one, shift)) => Some(literal(one)? << literal(shift)?),
            None => literal(text).or_else(|| *self.constants.get(text)?),
        }
    }

    /// Adds a struct and computes its layout.
    fn take_struct(&mut self, name: String, body: &str) {
        let mut layout = KernelStruct { size: 0, align: 1, fields: Vec::new() };
        for field in body.split(';').map(str::trim).filter(|field| !field.is_empty()) {
            let (kind, declarator) = field.rsplit_once([' ', '\t']).expect("type and name");
            let (size, align) = self.type_layout(kind.trim());
            let (field_name, count) = match declarator.split_once('[') {
                None => (declarator, Some(1)),
                Some((field_name, "]")) => (field_name, None),
                Some((field_name, count)) => {
                    let count = self.number(count.trim_end_matches(']')).expect("an array length");
                    (field_name, Some(usize::try_from(count).expect("a small array")))
                }
            };
            layout.size = layout.size.next_multiple_of(align);
            layout.align = layout.align.max(align);
            if let Some(count) = count {
                layout.fields.push((field_name.to_owned(), layout.size));
                layout.size += size * count;
            }
        }
        layout.size = layout.size.next_multiple_of(layout.align);
        self.structs.insert(name, layout);
    }

    /// Returns the size and the alignment of a type in bytes.
    fn type_layout(&self, kind: &str) -> (usize, usize) {
        if let Some(name) = kind.strip_prefix("struct ") {
            let inner = &self.structs[name.trim()];
            return (inner.size, inner.align);
        }
        let size = match kind {
            "char" | "uint8_t" | "int8_t" => 1,
            "uint16_t" | "int16_t" => 2,
            "uint32_t" | "int32_t" => 4,
            "uint64_t" | "int64_t" => 8,
            _ => panic!("type {kind:?}"),
        };
        (size, size)
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((code, after)) = rest.split_once("/*") {
        out.push_str(code);
        rest = after.split_once("*/").expect("a comment that ends").1;
    }
    out + rest
}
