//! The answer to `--print-capabilities`, which libvirt and QEMU read before they start a back-end:
//! one JSON object
//! (`VHostUserBackendCapabilities` of QEMU's `docs/interop/vhost-user.json`).

/// `separate-options`: each option is an argument of its own, not part of an `-o` list.
/// `posix-acl-negotiation-mode`: `--posix-acl` takes never, auto and always.
pub(super) const JSON: &str = r#"{
  "type": "fs",
  "features": [
    "posix-acl-negotiation-mode",
    "separate-options"
  ]
}"#;
