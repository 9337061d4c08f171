//! PAX headers: records of the form `LENGTH KEY=VALUE`, with values of any bytes.

use pinhole_erofs::Time;
use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;

/// The records of a PAX header that matter. Other keywords describe the archive or repeat stat
/// fields that an image does not have, such as the time of last access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    /// By full name.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A keyword of a sparse file in PAX form.
    pub(crate) sparse: Option<String>,
    /// A keyword of an ACL in text form that says more than the mode.
    pub(crate) acl: Option<String>,
}

/// Why a PAX header is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadPax(pub(crate) String);

impl Pax {
    /// Adds the records of a header. They win over those that are known.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), BadPax> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let record = Record::first(rest)?;
            self.set(record.key, record.value)?;
            rest = record.behind;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadPax> {
        let wrong = || {
            let value = value.get(..value.len().min(64)).unwrap_or_default();
            BadPax(format!("\"{}\" has the value \"{}\"", key.escape_ascii(), value.escape_ascii()))
        };
        // An empty value takes back one of a global header.
        let is_empty = value.is_empty();
        let text = std::str::from_utf8(value).ok().filter(|_| !is_empty);
        match key {
            b"path" => self.path = (!is_empty).then(|| value.to_vec()),
            b"linkpath" => self.link_path = (!is_empty).then(|| value.to_vec()),
            b"size" if !is_empty => self.size = Some(text.and_then(decimal).ok_or_else(wrong)?),
            b"uid" if !is_empty => self.uid = Some(text.and_then(decimal).ok_or_else(wrong)?),
            b"gid" if !is_empty => self.gid = Some(text.and_then(decimal).ok_or_else(wrong)?),
            b"mtime" if !is_empty => self.mtime = Some(text.and_then(time).ok_or_else(wrong)?),
            b"size" => self.size = None,
            b"uid" => self.uid = None,
            b"gid" => self.gid = None,
            b"mtime" => self.mtime = None,
            // GNU tar leaves out the NUL that the kernel's value ends with.
            b"RHT.security.selinux" if !is_empty => {
                self.xattrs.insert(b"security.selinux".to_vec(), [value, b"\0"].concat());
            }
            b"SCHILY.acl.access" | b"SCHILY.acl.default" | b"SCHILY.acl.ace" if !repeats_mode(key, value) => {
                self.acl = Some(key.escape_ascii().to_string());
            }
            b"SCHILY.realsize" => self.sparse = Some(key.escape_ascii().to_string()),
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = Some(key.escape_ascii().to_string()),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let decoded = percent_decoded(name).zip(base64_decoded(value));
                    let (name, value) = decoded.ok_or_else(wrong)?;
                    self.xattrs.insert(name, value);
                }
            }
        }
        Ok(())
    }
}

/// A record of a header.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// The bytes behind the record.
    behind: &'a [u8],
}

impl<'a> Record<'a> {
    /// Returns the first record of some bytes.
    fn first(bytes: &'a [u8]) -> Result<Self, BadPax> {
        Self::parse(bytes).filter(|record| !record.key.is_empty()).ok_or_else(|| {
            let begin = bytes.get(..bytes.len().min(32)).unwrap_or_default();
            BadPax(format!("its record \"{}\" is not of the form LENGTH KEY=VALUE", begin.escape_ascii()))
        })
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let len = decimal(std::str::from_utf8(bytes.get(..space)?).ok()?)?;
        let (record, behind) = bytes.split_at_checked(len)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = record.split_at_checked(equals)?;
        Some(Self { key, value: value.get(1..)?, behind })
    }
}

/// Parses decimal digits.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// Parses seconds with a fraction. Digits after the ninth are cut off, towards the past.
fn time(text: &str) -> Option<Time> {
    const SECOND: u32 = 1_000_000_000;
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = decimal(whole)?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nine = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nine.fold(0, |number, digit| number * 10 + u32::from(digit.saturating_sub(b'0')));
    let is_cut = fraction.bytes().skip(9).any(|digit| digit != b'0');
    Some(match (is_negative, nanoseconds + u32::from(is_negative && is_cut)) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: seconds.checked_neg()?, nanoseconds: 0 },
        (true, part) => {
            Time { seconds: seconds.checked_neg()?.checked_sub(1)?, nanoseconds: SECOND - part.min(SECOND) }
        }
    })
}

/// Returns whether an ACL in text form has only the three entries that the mode has too.
fn repeats_mode(key: &[u8], value: &[u8]) -> bool {
    let entries = value.split(|byte| matches!(byte, b',' | b'\n')).filter(|entry| !entry.is_empty());
    let is_base =
        |entry: &[u8]| [&b"user::"[..], b"group::", b"other::"].iter().any(|who| entry.starts_with(who));
    let mut entries = entries.peekable();
    match key {
        b"SCHILY.acl.access" => entries.all(is_base),
        _ => entries.peek().is_none(),
    }
}

fn percent_decoded(name: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            let is_plain = digits.iter().all(u8::is_ascii_hexdigit);
            decoded
                .push(u8::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_plain)?, 16).ok()?);
            rest = behind;
        } else {
            decoded.push(*first);
        }
    }
    Some(decoded)
}

fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    const OTHERS: [(Range<u8>, u8); 3] = [(b'A'..b'[', 0), (b'a'..b'{', 26), (b'0'..b':', 52)];
    let digits = text.iter().take_while(|digit| **digit != b'=');
    let (mut bits, mut count, mut decoded) = (0_u32, 0_u32, Vec::with_capacity(text.len()));
    for digit in digits {
        let range = OTHERS.iter().find(|(range, _)| range.contains(digit));
        let value = match (range, digit) {
            (Some((range, first)), _) => digit - range.start + first,
            (None, b'+' | b'-') => 62,
            (None, b'/' | b'_') => 63,
            (None, _) => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push(u8::try_from(bits >> count & 0xff).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record_of(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let len = (1..10).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
        [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
    }

    fn parsed(records: &[(&str, &[u8])]) -> Result<Pax, BadPax> {
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record_of(key, value)).collect();
        let mut pax = Pax::default();
        pax.add(&bytes).map(|()| pax)
    }

    #[test]
    fn values_keep_newlines_and_nuls() {
        let value = b"\x01\0\0\x02\n\n13 path=evil\n\0";
        let pax = parsed(&[("SCHILY.xattr.security.capability", value), ("path", b"a\xffb")]).unwrap();
        assert_eq!(pax.xattrs.get(&b"security.capability"[..]).unwrap(), value);
        assert_eq!(pax.path.unwrap(), b"a\xffb");
    }

    #[test]
    fn attributes_of_libarchive_are_decoded() {
        let pax = parsed(&[("LIBARCHIVE.xattr.user.a%3Db", b"AAEC/w")]).unwrap();
        assert_eq!(pax.xattrs.get(&b"user.a=b"[..]).unwrap(), &[0, 1, 2, 255]);
        parsed(&[("LIBARCHIVE.xattr.user.a", b"A!")]).unwrap_err();
        parsed(&[("LIBARCHIVE.xattr.user.%g1", b"AA")]).unwrap_err();
    }

    #[test]
    fn times_have_nanoseconds_and_signs() {
        let at = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        assert_eq!(time("12.000000034"), at(12, 34));
        assert_eq!(time("12"), at(12, 0));
        assert_eq!(time("0.5"), at(0, 500_000_000));
        assert_eq!(time("-0.25"), at(-1, 750_000_000));
        assert_eq!(time("-3"), at(-3, 0));
        assert_eq!(time("-1.9999999999"), at(-2, 0));
        for wrong in ["", "1e3", "--1", "1.x", "+1", "99999999999999999999"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_an_acl_beyond_the_mode_is_kept() {
        let base = b"user::rwx,group::r-x,other::r-x";
        assert_eq!(parsed(&[("SCHILY.acl.access", base)]).unwrap().acl, None);
        assert!(parsed(&[("SCHILY.acl.access", b"user::rwx,user:lp:r--")]).unwrap().acl.is_some());
        assert!(parsed(&[("SCHILY.acl.default", base)]).unwrap().acl.is_some());
    }

    #[test]
    fn malformed_records_are_errors() {
        for wrong in [&b"x"[..], b"5 a=b", b"99 path=a\n", b"0 a=b\n", b"7 path\n", b"-6 a=b\n", b"5 =b\n"] {
            assert!(Pax::default().add(wrong).is_err(), "{}", wrong.escape_ascii());
        }
        for (key, value) in [("uid", "-1"), ("uid", "4294967296"), ("size", "1.5"), ("gid", "x")] {
            assert!(parsed(&[(key, value.as_bytes())]).is_err(), "{key}={value}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Pax::default().add(&bytes));
        }
    }
}
