//! The code that the fuzz targets share: a file system in memory, the guest's side of a session,
//! and the scripts that drive both.

pub mod compare;
pub mod guest;
pub mod image;
pub mod model;
mod model_fs;
pub mod oracle;
pub mod run;
pub mod script;
pub mod window;
