//! The program `sluse`: its commands are in `sluse_engine::cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluse_engine::cli::main()
}
