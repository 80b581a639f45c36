//! Runs the jobs that the test puts into the shared directory, each as soon as it is there.

use std::{fs::File, path::Path, process::Command, thread, time::Duration};

use libtest_mimic::Failed;

use super::{JOB, SHARE};
use crate::vm::{Files, write_whole};

/// How often it looks for a job.
const POLL: Duration = Duration::from_millis(10);

/// Runs jobs until the machine ends.
pub(super) fn run() -> Result<(), Failed> {
    let share = Path::new(SHARE);
    write_whole(&share.join("ready"), "")?;
    for number in 0.. {
        let files = Files::new(share, number);
        while !files.script().exists() {
            thread::sleep(POLL);
        }
        thread::spawn(move || {
            let status = run_job(&files, number).unwrap_or_else(|failed| {
                eprintln!("job {number}: {}", failed.message().unwrap_or_default());
                -1
            });
            if let Err(error) = write_whole(&files.status(), &status.to_string()) {
                eprintln!("job {number} ended with {status}, which cannot be told: {error}");
            }
        });
    }
    Ok(())
}

fn run_job(files: &Files, number: u32) -> Result<i32, Failed> {
    let output = File::create(files.output())?;
    let status = Command::new("/bin/sh")
        .arg("-e")
        .arg(files.script())
        .env(JOB, number.to_string())
        .stderr(output.try_clone()?)
        .stdout(output)
        .status()?;
    Ok(status.code().unwrap_or(-1))
}

/// The files of the job that this process is.
pub(super) fn own_files() -> Result<Files, Failed> {
    let number = std::env::var(JOB).map_err(|_| format!("{JOB} is not set: this is no job"))?;
    Ok(Files::new(Path::new(SHARE), number.parse()?))
}
