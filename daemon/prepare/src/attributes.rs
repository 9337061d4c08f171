//! What an inode has beside its kind: owner, permissions, time and extended attributes, with their
//! limits. Also the number of a device.

use crate::limits;
use crate::tree_error::{TreeError, shown, within};
use pinhole_erofs::Time;

/// Owner, permissions, time and extended attributes of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The lower 12 bits of the mode.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Full names and values, sorted by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Returns the attributes of a directory that no entry describes: 0755, root, time 0.
    pub(crate) fn implicit() -> Self {
        Self { permissions: 0o755, ..Self::default() }
    }

    /// Adds an extended attribute. A later value of the same name wins.
    ///
    /// # Errors
    /// [`TreeError::Limit`] and [`TreeError::XattrName`].
    pub(crate) fn add_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TreeError> {
        if !is_xattr_name(name) {
            return Err(TreeError::XattrName { name: shown(name) });
        }
        within("an extended attribute", "bytes", value.len(), limits::XATTR_LEN_MAX)?;
        let place = self.xattrs.binary_search_by(|(known, _)| known.as_slice().cmp(name));
        match place {
            Ok(at) => {
                if let Some((_, known)) = self.xattrs.get_mut(at) {
                    *known = value.to_vec();
                }
            }
            Err(at) => self.xattrs.insert(at, (name.to_vec(), value.to_vec())),
        }
        within("the inode", "extended attributes", self.xattrs.len(), limits::XATTRS_MAX)?;
        within("the inode", "bytes of extended attributes", self.xattrs_len(), limits::XATTRS_LEN_MAX)
    }

    /// Returns the bytes of all extended attributes with their names.
    pub(crate) fn xattrs_len(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Returns a device number as Linux encodes it in 32 bits (`new_encode_dev`).
pub(crate) const fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// Returns whether Linux has a namespace of this name, and EROFS can store it.
fn is_xattr_name(name: &[u8]) -> bool {
    const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
    let prefixed = [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| name.strip_prefix(*prefix).is_some_and(|rest| !rest.is_empty()));
    (prefixed || ACLS.contains(&name)) && name.len() <= limits::NAME_LEN_MAX && !name.contains(&0)
}
