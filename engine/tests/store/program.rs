//! The program itself: it starts with nothing, stops clean, and its backup comes back elsewhere.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn sluse(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluse"));
    command
        .env("SLUSE_DATA_DIR", data_dir)
        .env("SLUSE_HTTP_LISTEN", "127.0.0.1:0")
        .current_dir(data_dir.parent().unwrap());
    for name in
        ["DATABASE_URL", "KAFKA_BROKERS", "REDIS_URL", "CHIRPSTACK_MQTT_URL", "SLUSE_CONFIG", "SLUSE_ADMIN_PASSWORD"]
    {
        command.env_remove(name);
    }
    command
}

/// `sluse serve` up to its log line "ready"; what it said until then.
fn serve(data_dir: &Path) -> (Child, Vec<String>, BufReader<std::process::ChildStdout>) {
    let mut child = sluse(data_dir).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = Vec::new();
    loop {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "ended early: {said:?}");
        let is_ready = line.contains(": ready");
        said.push(line);
        if is_ready {
            return (child, said, out);
        }
    }
}

fn stop(child: &mut Child) -> bool {
    assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
    let give_up_at = Instant::now() + Duration::from_secs(60);
    while Instant::now() < give_up_at {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    panic!("did not stop");
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn it_starts_with_nothing_stops_clean_and_its_backup_comes_back_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    // The private PostgreSQL runs as another user when this test runs as root.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let data = dir.path().join("data");
    let (mut child, said, _out) = serve(&data);
    let password = said.iter().find(|line| line.contains("password: ")).expect("the first password is shown");
    assert!(!said.iter().any(|line| line.contains("secret")), "{said:?}");

    let second = sluse(&data).arg("serve").output().unwrap();
    assert!(!second.status.success() && text(&second).contains("another sluse"), "{}", text(&second));

    let saved = dir.path().join("saved");
    let backup = sluse(&data).arg("backup").arg(&saved).output().unwrap();
    assert!(backup.status.success(), "{}", text(&backup));
    assert!(text(&backup).contains("The log is not in the backup"), "{}", text(&backup));
    let reset = sluse(&data).args(["admin", "reset-password"]).output().unwrap();
    assert!(reset.status.success() && text(&reset).contains("global-admin@os2iot.dk"), "{}", text(&reset));
    assert!(stop(&mut child), "the stop was clean");

    // Shown once: the second start has its administrator already.
    let (mut child, said, _out) = serve(&data);
    assert!(!said.iter().any(|line| line.contains("password: ")), "{said:?}");
    assert!(stop(&mut child));

    let elsewhere = dir.path().join("elsewhere");
    let restore = sluse(&elsewhere).arg("restore").arg(&saved).output().unwrap();
    assert!(restore.status.success(), "{}", text(&restore));
    let again = sluse(&elsewhere).arg("restore").arg(&saved).output().unwrap();
    assert!(!again.status.success() && text(&again).contains("not empty"), "{}", text(&again));
    let (mut child, said, _out) = serve(&elsewhere);
    assert!(!said.iter().any(|line| line.contains("password: ")), "{said:?}");
    assert!(stop(&mut child));
    assert!(!password.is_empty());
}

#[test]
fn a_killed_sluse_takes_its_postgres_with_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let data = dir.path().join("data");
    let (mut child, _, _out) = serve(&data);
    let pid_file = data.join("postgres/data/postmaster.pid");
    assert!(pid_file.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let give_up_at = Instant::now() + Duration::from_secs(20);
    while pid_file.exists() && Instant::now() < give_up_at {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!pid_file.exists(), "the postmaster removes its pid file as the last thing it does");
    let (mut child, _, _out) = serve(&data);
    assert!(stop(&mut child));
}

#[test]
fn a_misspelt_setting_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = sluse(&dir.path().join("data")).env("SLUSE_HTP_LISTEN", "x").output().unwrap();
    assert!(!output.status.success() && text(&output).contains("SLUSE_HTP_LISTEN"), "{}", text(&output));
    let output = sluse(&dir.path().join("data")).arg("config").output().unwrap();
    assert!(output.status.success() && text(&output).contains("# listen = \"127.0.0.1:3000\""));
}
