//! The program as a shell sees it: exit status, standard output and standard error.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A test that waits longer than this hangs.
const HANG: Duration = Duration::from_secs(60);

/// A process that ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // One that was waited for is gone by now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn vmcast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmcast")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

#[test]
fn help_is_printed_where_it_was_asked_for_and_mistakes_end_with_status_2() {
    for help in [&["--help"][..], &["-h"], &["group", "list", "--help"], &["--version"]] {
        let output = vmcast(help);
        assert_eq!(output.status.code(), Some(0), "{help:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{help:?}");
        assert!(text(&output.stdout).lines().all(|line| line.chars().count() <= 110), "{help:?}");
    }
    for wrong in [&[][..], &["levitate"], &["group"], &["router"], &["status", "--colour"]] {
        let output = vmcast(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_question_without_a_daemon_ends_with_status_3_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("router.sock");
    let output = vmcast(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    let said = text(&output.stderr);
    assert!(said.contains("no daemon answers at") && said.contains("hint: "), "{said}");
}

#[test]
fn the_socket_of_the_environment_is_asked_unless_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [named, of_environment] = ["named.sock", "environment.sock"].map(|name| dir.path().join(name));
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmcast"));
        command.arg("status").args(arguments).env("VMCAST_SOCKET", &of_environment);
        text(&command.output().unwrap().stderr)
    };
    assert!(ask(&[]).contains("environment.sock"));
    let said = ask(&["--socket", named.to_str().unwrap()]);
    assert!(said.contains("named.sock") && !said.contains("environment.sock"), "{said}");
}

#[test]
fn config_check_ends_with_status_1_for_a_file_that_is_wrong() {
    let right = file("listen = \"0.0.0.0:8443\"\n");
    let output = vmcast(&["config", "check", right.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("right for an admin\n"));

    let wrong = file("listen = \"0.0.0.0:8443\"\nlaese_seconds = 3\n");
    let output = vmcast(&["config", "check", wrong.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("did you mean `lease_seconds`?"));
}

#[test]
fn a_daemon_refuses_a_wrong_file_before_it_does_anything() {
    let wrong = file("rank = 0\n[[interface]]\nname = \"nonesuch9\"\n");
    for role in ["router", "admin", "agent"] {
        let output = vmcast(&[role, "--config", wrong.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{role}");
        assert!(text(&output.stderr).starts_with("error: "), "{role}: {}", text(&output.stderr));
    }
}

#[test]
fn a_reader_that_closes_early_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vmcast"))
        .args([
            "config",
            "check",
            "--role",
            "admin",
            file("listen = \"0.0.0.0:1\"\n").path().to_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let _ = child.wait().unwrap();
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_log_of_format_json_is_one_object_per_line_from_the_start_to_the_end_by_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("admin.toml");
    let at = dir.path().display();
    // Free a moment ago; the admin takes no port of the kernel's choice, as nodes could not find it.
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "listen = \"{listen}\"\ndatabase = \"{at}/admin.db\"\n[control]\nsocket = \"{at}/admin.sock\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcast"));
    command
        .args(["admin", "--log-format", "json", "--config", config.to_str().unwrap()])
        .env_remove("RUST_LOG");
    // What inherited this program's output would keep it open, were this program to abort.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Ends(command.spawn().unwrap());
    let lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let (heard, said) = mpsc::channel();
    let reader = thread::spawn(move || lines.for_each(|line| heard.send(line).unwrap_or_default()));
    let mut log = Vec::new();
    while !log.last().is_some_and(|line: &String| line.contains("admin is listening")) {
        log.push(said.recv_timeout(HANG).expect("it says that it serves"));
    }
    kill(Pid::from_raw(child.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let end = loop {
        match said.recv_timeout(HANG) {
            Ok(line) => log.push(line),
            Err(end) => break end,
        }
    };
    assert_eq!(end, RecvTimeoutError::Disconnected, "it does not end: {log:?}");
    reader.join().unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0), "{log:?}");
    for line in &log {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("level"), "INFO", "{line}");
        assert!(!text("timestamp").is_empty() && !text("message").is_empty(), "{line}");
    }
    assert!(log.last().is_some_and(|line| line.contains("\"ended\"")), "{log:?}");
}
