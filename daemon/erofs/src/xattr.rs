//! Extended attributes: those of one inode, and those that inodes share.
//!
//! An attribute is a header of 4 bytes, a name without its usual prefix, and a value. The area
//! behind an inode holds the numbers of shared attributes and then attributes of its own.

use core::ops::ControlFlow;

use arrayvec::ArrayVec;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U32;

use crate::abi::{self, XattrEntry, XattrHeader};
use crate::error::{Corruption, ReadError};
use crate::image::Image;
use crate::inode::Inode;
use crate::limits::{MAX_XATTR_NAME, MAX_XATTRS};
use crate::source::{self, Source};
use crate::xattr_prefix::usual;

/// Bytes of the header of an inode's attributes.
const HEADER: u32 = 12;

/// Attribute that was found, still in the image.
struct Attribute<'i> {
    base: &'static [u8],
    infix: &'i [u8],
    name_start: u64,
    name_len: u8,
    value_len: u16,
}

type FullName = ArrayVec<u8, MAX_XATTR_NAME>;

impl<S: Source> Image<S> {
    /// Appends the value of an extended attribute, and returns its length in bytes. `name` is the
    /// full name. Returns `None` if the inode has no such attribute.
    ///
    /// # Errors
    ///
    /// The area of the attributes is malformed. `out` is then unchanged.
    pub fn get_xattr(
        &self,
        inode: &Inode,
        name: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, ReadError> {
        let mut found = None;
        self.each_attribute(inode, &mut |attribute| {
            if attribute.full_len() == name.len() && *self.full_name(inode, attribute)? == *name {
                let start = attribute.name_start.saturating_add(attribute.name_len.into());
                found = Some((start, usize::from(attribute.value_len)));
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let Some((start, length)) = found else { return Ok(None) };
        let before = out.len();
        out.resize(before.saturating_add(length), 0);
        if let Err(error) = self.source.copy(start, out.get_mut(before..).unwrap_or_default()) {
            out.truncate(before);
            return Err(error.into());
        }
        Ok(Some(length))
    }

    /// Calls `each` with the full name and the length in bytes of the value of each extended
    /// attribute, until it returns `Break`. Names with an unknown prefix are left out, as in Linux.
    ///
    /// # Errors
    ///
    /// The area of the attributes is malformed. Attributes before the fault were then listed.
    pub fn xattrs(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(&[u8], u32) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.each_attribute(inode, &mut |attribute| {
            Ok(each(&self.full_name(inode, attribute)?, attribute.value_len.into()))
        })
    }

    /// Calls `each` with the attributes of the inode's own, and then with the shared ones.
    fn each_attribute(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(&Attribute<'_>) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        if inode.xattr_bytes == 0 {
            return Ok(());
        }
        let header: XattrHeader = source::read(&self.source, inode.body)?;
        let shared = u32::from(header.h_shared_count);
        let own = HEADER.saturating_add(shared * 4);
        if inode.xattr_bytes == HEADER || own > inode.xattr_bytes {
            return Err(inode.corrupt(Corruption::XattrRange));
        }
        let mut position = inode.body.saturating_add(own.into());
        let end = inode.tail();
        let mut count = 0;
        while position < end {
            count += 1;
            if count > MAX_XATTRS {
                return Err(inode.corrupt(Corruption::XattrCount));
            }
            let (attribute, length) = self.attribute(position)?;
            position = position.saturating_add(length);
            if position > end {
                return Err(inode.corrupt(Corruption::XattrRange));
            }
            if let Some(attribute) = attribute
                && each(&attribute)?.is_break()
            {
                return Ok(());
            }
        }
        let mut ids = [U32::ZERO; 255];
        let ids = ids.get_mut(..usize::from(header.h_shared_count)).unwrap_or_default();
        self.source.copy(inode.body.saturating_add(HEADER.into()), ids.as_mut_bytes())?;
        for id in ids {
            let position = self.superblock.xattrs_start.saturating_add(u64::from(id.get()) * 4);
            let (attribute, _) = self.attribute(position)?;
            if let Some(attribute) = attribute
                && each(&attribute)?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the header of the attribute at `position`. Returns the attribute, if its prefix is
    /// known, and its bytes.
    fn attribute(&self, position: u64) -> Result<(Option<Attribute<'_>>, u64), ReadError> {
        let entry: XattrEntry = source::read(&self.source, position)?;
        let (name_len, value_len) = (entry.e_name_len, entry.e_value_size.get());
        let length = (4 + u64::from(name_len) + u64::from(value_len)).next_multiple_of(4);
        let (index, infix) = if entry.e_name_index & abi::XATTR_LONG_PREFIX == 0 {
            (entry.e_name_index, &[] as &[u8])
        } else {
            let number = usize::from(entry.e_name_index & !abi::XATTR_LONG_PREFIX);
            match self.xattr_prefixes.get(number) {
                Some(prefix) => (prefix.base, prefix.infix.as_slice()),
                None => return Ok((None, length)),
            }
        };
        let name_start = position.saturating_add(4);
        let attribute = usual(index).map(|base| Attribute { base, infix, name_start, name_len, value_len });
        Ok((attribute, length))
    }

    /// Reads the full name of an attribute.
    fn full_name(&self, inode: &Inode, attribute: &Attribute<'_>) -> Result<FullName, ReadError> {
        let mut buffer = [0; MAX_XATTR_NAME];
        let rest = buffer.get_mut(..usize::from(attribute.name_len)).unwrap_or_default();
        self.source.copy(attribute.name_start, rest)?;
        let mut name = FullName::new();
        for part in [attribute.base, attribute.infix, rest] {
            let fits = name.try_extend_from_slice(part).is_ok();
            if !fits || part.contains(&0) {
                return Err(inode.corrupt(Corruption::XattrName));
            }
        }
        Ok(name)
    }
}

impl Attribute<'_> {
    /// Returns the bytes of the full name.
    fn full_len(&self) -> usize {
        self.base.len().saturating_add(self.infix.len()).saturating_add(self.name_len.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::InodeExtended;
    use crate::fixture::{Fixture, OwnedBytes};
    use crate::inode::Nid;
    use crate::source::SourceError;

    /// Returns the bytes of an attribute.
    fn attribute(index: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        let name_len = u8::try_from(name.len()).unwrap();
        let value_len = u16::try_from(value.len()).unwrap();
        let mut bytes = vec![name_len, index];
        bytes.extend_from_slice(&value_len.to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Returns an image with one file that has the attributes `own` and the shared ones `ids`.
    fn one_file(shared: &[u8], ids: &[u32], own: &[u8]) -> (Image<OwnedBytes>, Inode) {
        let mut fixture = Fixture::new();
        fixture.root(&[(b".", 0, 2), (b"..", 0, 2)]);
        fixture.shared = shared.to_vec();
        // The shared area also holds a prefix, 2,048 bytes into it.
        fixture.shared.resize(2048, 0);
        fixture.shared.extend_from_slice(&[8, 0, 4, b'o', b'v', b'e', b'r', b'l', b'a', b'y']);
        fixture.superblock.xattr_prefix_count = 1;
        fixture.superblock.xattr_prefix_start = ((4096 + 2048) / 4).into();
        let mut body = vec![0, 0, 0, 0, u8::try_from(ids.len()).unwrap(), 0, 0, 0, 0, 0, 0, 0];
        body.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        body.extend_from_slice(own);
        let set = |inode: &mut InodeExtended| {
            (inode.i_format, inode.i_mode) = (1.into(), 0o100_644.into());
            inode.i_xattr_icount = u16::try_from((body.len() - 12) / 4 + 1).unwrap().into();
        };
        let nid = fixture.extended(set, &body);
        let image = fixture.open();
        let inode = image.inode(Nid(nid)).unwrap();
        (image, inode)
    }

    fn list(image: &Image<OwnedBytes>, inode: &Inode) -> Result<Vec<(Vec<u8>, u32)>, ReadError> {
        let mut names = Vec::new();
        image.xattrs(inode, &mut |name, length| {
            names.push((name.to_vec(), length));
            ControlFlow::Continue(())
        })?;
        Ok(names)
    }

    #[test]
    fn own_shared_and_prefixed_attributes_are_read() {
        let mut own = attribute(1, b"comment", b"hello");
        own.extend(attribute(0x80, b".opaque", b"y"));
        own.extend(attribute(5, b"hidden", b""));
        let mut shared = attribute(2, b"", b"acl");
        let second = u32::try_from(shared.len() / 4).unwrap();
        shared.extend(attribute(6, b"capability", b"caps"));
        let (image, inode) = one_file(&shared, &[second, 0], &own);
        let expected: [(&[u8], &[u8]); 4] = [
            (b"user.comment", b"hello"),
            (b"trusted.overlay.opaque", b"y"),
            (b"security.capability", b"caps"),
            (b"system.posix_acl_access", b"acl"),
        ];
        let names: Vec<_> = list(&image, &inode).unwrap();
        let wanted: Vec<_> = expected
            .iter()
            .map(|(name, value)| (name.to_vec(), u32::try_from(value.len()).unwrap()))
            .collect();
        assert_eq!(names, wanted);
        for (name, value) in expected {
            let mut out = b"before".to_vec();
            assert_eq!(image.get_xattr(&inode, name, &mut out), Ok(Some(value.len())));
            assert_eq!(out, [b"before", value].concat());
        }
        assert_eq!(image.get_xattr(&inode, b"user.other", &mut Vec::new()), Ok(None));
    }

    #[test]
    fn attribute_outside_of_its_area_is_an_error() {
        let mut own = attribute(1, b"a", b"b");
        own[2] = 200;
        let (image, inode) = one_file(&[], &[], &own);
        assert_eq!(list(&image, &inode), Err(inode.corrupt(Corruption::XattrRange)));
        let (image, inode) = one_file(&[], &[u32::MAX], &[]);
        assert!(matches!(list(&image, &inode), Err(ReadError::Source(_))));
    }

    #[test]
    fn value_behind_the_end_of_the_image_leaves_the_buffer() {
        let mut shared = vec![0; 2044];
        shared.extend(attribute(1, b"", &[]));
        let id = 511;
        shared[2044 + 2] = 0xff;
        shared[2044 + 3] = 0xff;
        let (image, inode) = one_file(&shared, &[id], &[]);
        let mut out = vec![1, 2];
        assert_eq!(image.get_xattr(&inode, b"user.", &mut out), Err(SourceError.into()));
        assert_eq!(out, [1, 2]);
    }

    #[test]
    fn attributes_have_a_limit_per_inode() {
        let one = attribute(1, b"a", b"");
        let (image, inode) = one_file(&[], &[], &one.repeat(MAX_XATTRS));
        assert_eq!(list(&image, &inode).unwrap().len(), MAX_XATTRS);
        let (image, inode) = one_file(&[], &[], &one.repeat(MAX_XATTRS + 1));
        assert_eq!(list(&image, &inode), Err(inode.corrupt(Corruption::XattrCount)));
    }
}
