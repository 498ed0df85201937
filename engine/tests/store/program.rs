//! The program itself: it starts with nothing, stops clean, and its backup comes back elsewhere.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sluse_engine::store::private_postgres::PrivatePostgres;

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

/// A running `sluse serve`; a test that fails leaves none behind.
struct Running {
    child: Child,
    /// What it said up to its log line "ready".
    said: Vec<String>,
    /// Kept open: it goes on logging.
    _out: BufReader<std::process::ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(data_dir: &Path) -> Running {
    let mut child = sluse(data_dir).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut running = Running { child, said: Vec::new(), _out: out };
    loop {
        let mut line = String::new();
        assert!(running._out.read_line(&mut line).unwrap() > 0, "ended early: {:?}", running.said);
        let is_ready = line.contains(": ready");
        running.said.push(line);
        if is_ready {
            return running;
        }
    }
}

/// Stops it as a service manager does; `true` when it says that this was clean.
fn stop(mut running: Running) -> bool {
    let child = &mut running.child;
    assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
    let give_up_at = Instant::now() + Duration::from_secs(90);
    while Instant::now() < give_up_at {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
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
    let running = serve(&data);
    let shows_password = |running: &Running| running.said.iter().any(|line| line.contains("password: "));
    assert!(shows_password(&running), "{:?}", running.said);

    let second = sluse(&data).arg("serve").output().unwrap();
    assert!(!second.status.success() && text(&second).contains("another sluse"), "{}", text(&second));

    let saved = dir.path().join("saved");
    let backup = sluse(&data).arg("backup").arg(&saved).output().unwrap();
    assert!(backup.status.success(), "{}", text(&backup));
    assert!(text(&backup).contains("The log is not in the backup"), "{}", text(&backup));
    let reset = sluse(&data).args(["admin", "reset-password"]).output().unwrap();
    assert!(reset.status.success() && text(&reset).contains("global-admin@os2iot.dk"), "{}", text(&reset));
    assert!(stop(running), "the stop was clean");

    // Shown once: the second start has its administrator already.
    let running = serve(&data);
    assert!(!shows_password(&running), "{:?}", running.said);
    assert!(stop(running));

    let elsewhere = dir.path().join("elsewhere");
    // A restore that fails leaves nothing behind that the next one would stumble over.
    let (dump, aside) = (saved.join("database.dump"), dir.path().join("aside"));
    std::fs::rename(&dump, &aside).unwrap();
    std::fs::write(&dump, "no dump").unwrap();
    let failed = sluse(&elsewhere).arg("restore").arg(&saved).output().unwrap();
    assert!(!failed.status.success() && text(&failed).contains("pg_restore failed"), "{}", text(&failed));
    std::fs::rename(&aside, &dump).unwrap();
    let restore = sluse(&elsewhere).arg("restore").arg(&saved).output().unwrap();
    assert!(restore.status.success(), "{}", text(&restore));
    let again = sluse(&elsewhere).arg("restore").arg(&saved).output().unwrap();
    assert!(!again.status.success() && text(&again).contains("not empty"), "{}", text(&again));
    let running = serve(&elsewhere);
    assert!(!shows_password(&running), "{:?}", running.said);
    assert!(stop(running));
}

/// Runs statements on the private PostgreSQL of a running `sluse`, and gives the first column of the last one's rows.
fn sql(data_dir: &Path, statements: &str) -> Vec<String> {
    let url = PrivatePostgres::url_of_running(data_dir).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url.reveal(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let messages = client.simple_query(statements).await.unwrap();
        let first = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        messages.into_iter().filter_map(first).collect()
    })
}

#[test]
fn a_restore_begins_a_new_log_and_nothing_counts_in_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let (data, saved, elsewhere) = (dir.path().join("data"), dir.path().join("saved"), dir.path().join("elsewhere"));
    let running = serve(&data);
    // As after some days of work: five accepted, three delivered, one of the two pending ones a hole, in a log far ahead.
    sql(
        &data,
        "INSERT INTO uplinks_partition (partition, epoch, log_store, log_incarnation, log_offset)
             SELECT p, 1, 'embedded:old', 1, 900 FROM generate_series(0, 7) AS p
             ON CONFLICT (partition) DO UPDATE SET log_store = 'embedded:old', log_incarnation = 1, log_offset = 900;
         INSERT INTO deliveries_partition (partition, epoch, log_store, log_incarnation, log_offset)
             SELECT p, 1, 'embedded:old', 1, 700 FROM generate_series(0, 7) AS p
             ON CONFLICT (partition) DO UPDATE SET log_store = 'embedded:old', log_incarnation = 1, log_offset = 700;
         INSERT INTO target_cursor
             (target_id, partition, log_store, log_incarnation, log_offset, holes, accepted, delivered, is_tombstone)
             VALUES (4711, 0, 'embedded:old', 1, 77, decode('000000000000004c', 'hex'), 5, 3, true)",
    );
    let backup = sluse(&data).arg("backup").arg(&saved).output().unwrap();
    assert!(backup.status.success(), "{}", text(&backup));
    drop(running);
    let restore = sluse(&elsewhere).arg("restore").arg(&saved).output().unwrap();
    assert!(restore.status.success(), "{}", text(&restore));
    let running = serve(&elsewhere);
    let expired = sql(&elsewhere, "SELECT expired FROM target_cursor WHERE target_id = 4711");
    assert_eq!(expired, ["2"], "what was pending is accounted for");
    let of_old = "SELECT log_store FROM uplinks_partition WHERE log_store = 'embedded:old'
        UNION ALL SELECT log_store FROM deliveries_partition WHERE log_store = 'embedded:old'
        UNION ALL SELECT log_store FROM target_cursor WHERE log_store = 'embedded:old' OR holes <> ''";
    assert_eq!(sql(&elsewhere, of_old), [""; 0]);
    assert!(stop(running), "it starts and stops clean");
}

#[test]
fn a_killed_sluse_takes_its_postgres_with_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let data = dir.path().join("data");
    let running = serve(&data);
    let pid_file = data.join("postgres/data/postmaster.pid");
    assert!(pid_file.exists());
    // SIGKILL
    drop(running);
    let give_up_at = Instant::now() + Duration::from_secs(20);
    while pid_file.exists() && Instant::now() < give_up_at {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!pid_file.exists(), "the postmaster removes its pid file as the last thing it does");
    assert!(stop(serve(&data)));
}

#[test]
fn a_misspelt_setting_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = sluse(&dir.path().join("data")).env("SLUSE_HTP_LISTEN", "x").output().unwrap();
    assert!(!output.status.success() && text(&output).contains("SLUSE_HTP_LISTEN"), "{}", text(&output));
    let output = sluse(&dir.path().join("data")).arg("config").output().unwrap();
    assert!(output.status.success() && text(&output).contains("# listen = \"127.0.0.1:3000\""));
}

#[test]
fn a_setting_that_cannot_work_is_told_once_and_before_a_database_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let kafka =
        [("KAFKA_BROKERS", "127.0.0.1:1"), ("DATABASE_URL", "postgres://127.0.0.1:1/x"), ("SLUSE_NODE_ID", "a")];
    let secrets =
        [("SLUSE_SECRET_KEY", "0123456789abcdef0123456789abcdef"), ("SLUSE_JWT_SECRET", "0123456789abcdef-jwt")];
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, &str, Variables<'_>, &str); 4] = [
        ("SLUSE_ALLOW_PRIVATE_TARGETS", "10.0.0.0/8,yes", &[], "SLUSE_ALLOW_PRIVATE_TARGETS"),
        ("REDIS_URL", "https://user:hunter2@h", &[], "REDIS_URL"),
        ("SLUSE__KAFKA__PROPERTIES__ACKS", "0", &kafka, "kafka.properties: acks"),
        ("SLUSE__KAFKA__PROPERTIES__SASL__PASSWRD", "hunter2", &kafka, "sasl.passwrd"),
    ];
    for (name, value, others, expected) in cases {
        let data = dir.path().join("data");
        let mut command = sluse(&data);
        command.env(name, value).envs(others.iter().copied());
        if !others.is_empty() {
            command.envs(secrets);
        }
        let output = command.arg("serve").output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains(expected) && !said.contains("hunter2"), "{said}");
        let words = said.lines().find_map(|line| line.strip_prefix("sluse: ")).unwrap();
        let half = &words[words.len() / 2..];
        assert_eq!(words.matches(&half[..half.len().min(30)]).count(), 1, "{words}");
        assert!(!data.exists(), "{name}: something was made");
    }
}

#[test]
fn keys_are_taken_over_while_it_runs_and_the_secret_key_is_changed_while_it_does_not() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let data = dir.path().join("data");
    let running = serve(&data);
    let import = |group: &str| {
        let mut child = sluse(&data)
            .args(["admin", "import-api-key", "--name", "old script", "--permission", group])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"6f1c2a4e-0b7d-4a53-9a55-0a8a3a1f7c11\n").unwrap();
        child.wait_with_output().unwrap()
    };
    let imported = import("1");
    assert!(imported.status.success() && text(&imported).contains("imported as API key 1"), "{}", text(&imported));
    assert!(!text(&imported).contains("6f1c2a4e"), "{}", text(&imported));
    let again = import("1");
    assert!(!again.status.success() && text(&again).contains("there is this key already"), "{}", text(&again));

    let rotate = || sluse(&data).args(["admin", "rotate-secret-key"]).output().unwrap();
    let key = || std::fs::read_to_string(data.join("secret-key")).unwrap();
    let before = key();
    let refused = rotate();
    assert!(!refused.status.success() && text(&refused).contains("stop every node first"), "{}", text(&refused));
    assert_eq!(key(), before);
    assert!(stop(running));
    let done = rotate();
    assert!(done.status.success() && text(&done).contains("encrypted with the new key"), "{}", text(&done));
    assert_ne!(key(), before);
    assert!(!text(&done).contains(key().trim()), "a key is never printed");
    assert!(stop(serve(&data)), "it starts with the new key");
}
