//! Redis, which nodes share limits and the live tail over. Nothing in it needs to survive: it saves nothing.

use std::fs;
use std::path::Path;

use super::{Program, find_program};

/// A server with its files below `dir`.
pub fn redis(dir: &Path, port: u16) -> anyhow::Result<Program> {
    fs::create_dir_all(dir)?;
    let place = dir.canonicalize()?.to_string_lossy().into_owned();
    let port_text = port.to_string();
    let args = ["--port", &port_text, "--bind", "127.0.0.1", "--dir", &place, "--save", "", "--appendonly", "no"];
    Ok(Program {
        name: "redis-server",
        path: find_program(&["/usr/bin/redis-server", "/usr/local/bin/redis-server"]),
        args: args.map(str::to_owned).to_vec(),
        env: Vec::new(),
        port,
        log: dir.join("redis.log"),
        stop_signal: "TERM",
        run_as: None,
    })
}
