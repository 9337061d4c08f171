//! What libvirt and QEMU ask a vhost-user back-end program before they start it: one JSON object
//! (`VHostUserBackendCapabilities` of QEMU's `docs/interop/vhost-user.json`).

/// `separate-options`: options are given one by one instead of as one `-o` list. `posix-acl-negotiation-mode`:
/// `--posix-acl` takes never, auto and always.
pub(super) const JSON: &str = r#"{
  "type": "fs",
  "features": [
    "posix-acl-negotiation-mode",
    "separate-options"
  ]
}"#;
