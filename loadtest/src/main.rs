//! `sluse-loadtest`: a simulated fleet, scripted receivers, and an oracle that holds Sluse to what it accepted.
//! A black box: it knows the wire formats and the REST API, nothing of the engine's inside.
//!
//! Reading order: [`scenario`] (what is played), [`city`] (a run from beginning to end), [`fleet`], [`payloads`],
//! [`chirpstack_event`] and [`generator`] (the load), [`drive_mqtt`] and [`drive_http`] (its connections), [`receivers`] (with
//! [`serve_http`]),
//! [`oracle`] and [`verdict`] (the judgement), [`faults`] and [`recovery`] (what breaks, and for how long it shows), [`report`] and
//! [`meter`] (what is shown), [`admin_api`], [`world`], [`engine_process`], [`servers`], [`tcp_proxy`] and
//! [`fake_world`] (what it all runs on).
//!
//! Exit code: 0 when every promise was kept, 1 when one was broken or the run could not be made.

mod admin_api;
mod catch_up;
mod chirpstack_event;
mod city;
mod cli;
mod clock;
mod drive_http;
mod drive_mqtt;
mod engine_process;
mod fake_world;
mod faults;
mod fleet;
mod generator;
mod home;
mod kafka_process;
mod meter;
mod oracle;
mod payloads;
mod receivers;
mod recovery;
mod report;
mod scenario;
mod serve_http;
mod servers;
mod silent;
mod tcp_proxy;
mod verdict;
mod world;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The simulator leaves the machine to the engine: two threads are enough for 20 000 uplinks per second.
const NUM_THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = EnvFilter::try_from_env("LOADTEST_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if cli.list {
        for (name, _) in scenario::BUILT_IN {
            match scenario::Scenario::load(name) {
                Ok(scenario) => println!("{name:<20} {}", scenario.about),
                Err(error) => eprintln!("{error:#}"),
            }
        }
        return ExitCode::SUCCESS;
    }
    // reqwest is built without a TLS provider of its own. A second installation cannot be: this is the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match play(&cli) {
        Ok(report) => {
            if cli.json {
                match serde_json::to_string(&report) {
                    Ok(line) => println!("{line}"),
                    Err(error) => eprintln!("the report cannot be written: {error}"),
                }
            } else {
                print!("{}", report.text());
            }
            if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("sluse-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(cli: &cli::Cli) -> anyhow::Result<report::Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(NUM_THREADS).enable_all().build()?;
    runtime.block_on(city::run(cli))
}
