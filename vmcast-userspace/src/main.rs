//! vmcast: IP multicast for networks that do not carry it.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmcast::cli::main()
}
