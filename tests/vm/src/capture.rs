//! What the wire carried, as tshark understands it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use libtest_mimic::Failed;
use vmcast_lab::{Namespace, Process};

use crate::{
    bed::{Bed, Outcome, ensure},
    guest,
    vm::{Job, Vm},
};

/// How often tshark looks at most whether a capture has everything: the machines want the processors for themselves.
const LOOK: Duration = Duration::from_secs(1);

/// A running capture of whole frames.
pub(crate) struct Capture {
    runs: Runs,
    file: PathBuf,
}

/// What captures.
enum Runs {
    /// A process of this host.
    Here(Process),
    /// A job of a machine.
    Inside(Job),
}

impl Runs {
    /// Ends it; what it has written is whole then.
    fn end(&mut self, bed: &Bed) -> Outcome {
        match self {
            Self::Here(process) => {
                process.stop()?;
            }
            Self::Inside(job) => {
                job.stop()?;
                bed.until("the capture in the machine ends", || Ok(job.status()?.is_some()))?;
            }
        }
        Ok(())
    }
}

/// What there must be of a filter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    Nothing,
    /// Frames of so many Request Nonces at least; those without one are of one round.
    Rounds(usize),
}

/// Fails with the reason if tshark is not installed.
pub(crate) fn tshark() -> Result<(), String> {
    installed(&["tshark", "dumpcap"])
}

/// Fails with the reason if one of these programs is not installed.
pub(crate) fn installed(programs: &[&str]) -> Result<(), String> {
    let installed = |program: &str| {
        env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
    };
    match programs.iter().find(|program| !installed(program)) {
        None => Ok(()),
        Some(program) => Err(format!("{program} is not installed")),
    }
}

/// Removes what an earlier capture of the same test has left.
fn remove_earlier(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Capture {
    /// Captures what passes an interface from now on; nothing without tshark.
    pub(crate) fn start(bed: &Bed, node: &Namespace, interface: &str) -> Result<Option<Self>, Failed> {
        if tshark().is_err() {
            return Ok(None);
        }
        let file = bed.lab.dir().join("capture.pcap");
        remove_earlier(&file)?;
        let mut command = Command::new("dumpcap");
        command.args(["-P", "-q", "-i", interface, "-w"]).arg(&file);
        let process = node.spawn("dumpcap", command)?;
        Ok(Some(Self::begun(bed, Runs::Here(process), file)?))
    }

    /// Captures what passes an interface of a machine from now on.
    pub(crate) fn inside(bed: &Bed, vm: &Vm, interface: &str) -> Result<Self, Failed> {
        tshark()?;
        let (name, share) = ("capture.pcap", guest::SHARE);
        let file = vm.share().join(name);
        remove_earlier(&file)?;
        let job = vm.start(&format!(
            "dumpcap -P -q -i {interface} -w {share}/{name} &\n\
             while [ ! -e {share}/${}.stop ]; do sleep 0.05; done\nkill $!\nwait $!",
            guest::JOB
        ))?;
        Self::begun(bed, Runs::Inside(job), file)
    }

    fn begun(bed: &Bed, runs: Runs, file: PathBuf) -> Result<Self, Failed> {
        bed.until("the capture has begun", || Ok(fs::metadata(&file).is_ok_and(|meta| meta.len() > 0)))?;
        Ok(Self { runs, file })
    }

    /// Starts one without which a test proves nothing.
    pub(crate) fn of_all(bed: &Bed, node: &Namespace, interface: &str) -> Result<Self, Failed> {
        tshark()?;
        Self::start(bed, node, interface)?.ok_or_else(|| "there is no capture".into())
    }

    /// Ends the capture. It must have AMT messages of these types (RFC 7450 §5.1), and tshark may complain
    /// of none.
    pub(crate) fn judge_amt(self, bed: &Bed, types: &[u8]) -> Outcome {
        self.judge_amt_with(bed, types, &[])
    }

    /// The same; and of each filter there must be frames, or none.
    pub(crate) fn judge_amt_with(mut self, bed: &Bed, types: &[u8], filters: &[(&str, Wanted)]) -> Outcome {
        self.runs.end(bed)?;
        let fields = self.tshark(&["-Y", "amt", "-T", "fields", "-E", "occurrence=f", "-e", "amt.type"])?;
        let seen: BTreeSet<u8> = fields
            .split_whitespace()
            .map(|field| field.strip_prefix("0x").map_or(field.parse(), |hex| u8::from_str_radix(hex, 16)))
            .collect::<Result<_, _>>()?;
        let missing: Vec<_> = types.iter().filter(|wanted| !seen.contains(wanted)).collect();
        ensure!(missing.is_empty(), "AMT messages of the types {missing:?} are missing, {seen:?} were sent");
        for (filter, wanted) in filters {
            let lines = self.tshark(&["-Y", filter, "-T", "fields", "-e", "amt.request_nonce"])?;
            let nonces = lines.lines().collect::<BTreeSet<_>>().len();
            let right = match wanted {
                Wanted::Nothing => nonces == 0,
                Wanted::Rounds(least) => nonces >= *least,
            };
            ensure!(right, "of `{filter}` there are frames of {nonces} rounds, and not {wanted:?}");
        }
        self.has_no_complaint("amt")
    }

    /// Waits until the capture has so many frames that a filter takes, ends it, and gives the fields of each, in
    /// the order in which they passed, a field with all of its occurrences. Tshark may complain of none of them.
    pub(crate) fn rows(
        mut self,
        bed: &Bed,
        filter: &str,
        fields: &[&str],
        frames: u64,
    ) -> Result<Vec<Vec<String>>, Failed> {
        let mut arguments = vec!["-Y", filter, "-T", "fields", "-E", "separator=|"];
        arguments.extend(fields.iter().flat_map(|field| ["-e", field]));
        let (mut length, mut looked, mut count) = (0, None, 0);
        // What is missing then is for the caller to say.
        bed.until_counted("the capture has everything", frames, || {
            let (now, written) = (bed.clock.now(), fs::metadata(&self.file)?.len());
            if written > length && looked.is_none_or(|at| now >= at + LOOK) {
                (length, looked) = (written, Some(now));
                // One whose last frame is being written is not whole.
                count = self.tshark(&arguments).unwrap_or_default().lines().count() as u64;
            }
            Ok(count)
        })?;
        self.runs.end(bed)?;
        let lines = self.tshark(&arguments)?;
        self.has_no_complaint(filter)?;
        Ok(lines.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect())
    }

    /// The same, counted by the fields.
    pub(crate) fn tally(
        self,
        bed: &Bed,
        filter: &str,
        fields: &[&str],
        frames: u64,
    ) -> Result<BTreeMap<Vec<String>, u64>, Failed> {
        let mut tally = BTreeMap::new();
        for row in self.rows(bed, filter, fields, frames)? {
            *tally.entry(row).or_default() += 1;
        }
        Ok(tally)
    }

    /// Fails if tshark complains of a frame that a filter takes.
    fn has_no_complaint(&self, filter: &str) -> Outcome {
        // Severities from a note on; what is below is mere talk.
        let complaint = format!("({filter}) && (_ws.malformed || _ws.expert.severity >= 0x400000)");
        let complaints = self.tshark(&["-Y", &complaint, "-V"])?;
        let first: Vec<_> = complaints.lines().take(60).collect();
        ensure!(complaints.is_empty(), "tshark complains:\n{}", first.join("\n"));
        Ok(())
    }

    fn tshark(&self, arguments: &[&str]) -> Result<String, Failed> {
        let Output { status, stdout, stderr } = Command::new("tshark")
            .args(["-n", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"])
            // AMT has none over IPv6 either (RFC 7450 §4.2.2.3, RFC 6935).
            .args(["-o", "udp.ignore_ipv6_zero_checksum:TRUE", "-r"])
            .arg(&self.file)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        ensure!(status.success(), "tshark {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}
