//! Which commands there are. `serve` is what happens when none is given.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, DEFAULTS_TOML};

/// Takes in what sensors send, decodes it, remembers it, and hands it to every data target that wants it.
#[derive(Debug, Parser)]
#[command(name = "sluse", version, about, disable_help_subcommand = true)]
struct Args {
    /// The configuration file; `sluse.toml` in this directory when there is one.
    #[arg(long, global = true, env = "SLUSE_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the engine until it is told to stop (the default).
    Serve,
    /// Prints the configuration file with its defaults.
    Config,
    /// Things that need no log-in.
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Saves database, configuration and keys into a new directory.
    Backup {
        /// Made by this command.
        directory: PathBuf,
    },
    /// Brings a backup back into an empty data directory.
    Restore {
        /// What `sluse backup` made.
        directory: PathBuf,
    },
    /// Prints the version.
    Version,
    /// Runs users' decoders for a parent process; started by `serve`, of no use by hand.
    #[command(hide = true)]
    DecoderWorker,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Gives a user a new random password and prints it.
    ResetPassword {
        /// The user's e-mail address; not needed while there is one global administrator only.
        #[arg(long)]
        email: Option<String>,
    },
    /// Encrypts every secret in the database anew, under another key. Stop all nodes first.
    RotateSecretKey {
        /// The file with the new key; made, with a random key, when it is not there. Not needed while the key is kept in the
        /// data directory: then the new one takes its place.
        #[arg(long)]
        new_key_file: Option<PathBuf>,
    },
    /// Takes over an API key that clients have already. The key itself is read from standard input.
    ImportApiKey {
        /// What it is called, 2 to 50 characters.
        #[arg(long)]
        name: String,
        /// The id of a group that it gets; can be given several times.
        #[arg(long = "permission", required = true)]
        permissions: Vec<i64>,
        /// When it expires, like 2027-01-31; never, if not given.
        #[arg(long)]
        expires_on: Option<String>,
    },
}

/// Runs the command line; the exit code is 0 when all went well, 1 when not, 2 when it was not understood.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command.unwrap_or(Command::Serve) {
        Command::DecoderWorker => return crate::decoder::worker_main(),
        Command::Version => {
            println!("sluse {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Config => {
            print!("{DEFAULTS_TOML}");
            Ok(())
        }
        Command::Serve => load(args.config).and_then(super::serve::serve),
        Command::Admin { command: AdminCommand::ResetPassword { email } } => {
            load(args.config).and_then(|config| super::admin::reset_password(&config, email.as_deref()))
        }
        Command::Admin { command: AdminCommand::RotateSecretKey { new_key_file } } => {
            load(args.config).and_then(|config| super::rotate::rotate_secret_key(&config, new_key_file.as_deref()))
        }
        Command::Admin { command: AdminCommand::ImportApiKey { name, permissions, expires_on } } => load(args.config)
            .and_then(|config| super::admin::import_api_key(&config, &name, permissions, expires_on.as_deref())),
        Command::Backup { directory } => {
            load(args.config).and_then(|config| super::backup::backup(&config, &directory))
        }
        Command::Restore { directory } => {
            load(args.config).and_then(|config| super::restore::restore(&config, &directory))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluse: {}", words_of(&error));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong and why, without saying twice what an error says in its own words already.
fn words_of(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |words, cause| match words.as_str() {
        "" => cause,
        said if said.contains(&cause) => words,
        said => format!("{said}: {cause}"),
    })
}

fn load(file: Option<PathBuf>) -> anyhow::Result<Config> {
    let beside = PathBuf::from("sluse.toml");
    let file = file.or_else(|| beside.is_file().then_some(beside));
    Ok(config::load(file.as_deref())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn what_went_wrong_is_said_once() {
        let error = anyhow::anyhow!("the file is gone").context("cannot read it").context("no start: cannot read it");
        assert_eq!(words_of(&error), "no start: cannot read it: the file is gone");
    }

    #[test]
    fn no_command_means_serve() {
        assert!(Args::try_parse_from(["sluse"]).unwrap().command.is_none());
        let args = Args::try_parse_from(["sluse", "admin", "reset-password", "--email", "a@b.dk"]).unwrap();
        assert!(matches!(
            args.command,
            Some(Command::Admin { command: AdminCommand::ResetPassword { email: Some(email) } }) if email == "a@b.dk"
        ));
    }
}
