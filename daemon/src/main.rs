//! The `pinhole` binary: everything is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    pinhole::cli::main(std::env::args_os())
}
