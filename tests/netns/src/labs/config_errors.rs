//! Configurations and hosts that a role cannot start with: it says why, and ends.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::Namespace;

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, Small, VMR},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a router without one of its interfaces ends and names those present", missing_interface),
        trial("a router with an unknown key ends and says file, line and the likely word", unknown_key),
        trial("a router whose tunnel port is taken ends and names it", port_in_use),
        trial("a second daemon on the same control socket ends and leaves the first alone", same_socket),
    ]
}

/// A configuration with these tables, beginning on line 4.
fn config(bed: &Bed, tables: &str) -> Result<PathBuf, Failed> {
    let path = bed.lab.dir().join("wrong.toml");
    let socket = bed.lab.dir().join("wrong.sock");
    fs::write(&path, format!("rank = 0\n[control]\nsocket = \"{}\"\n{tables}", socket.display()))?;
    Ok(path)
}

/// Starts a router that must end with status 1, and says what it said.
fn fails(bed: &Bed, node: &Namespace, config: &Path) -> Result<String, Failed> {
    let config = config.to_str().ok_or("a path that is no text")?;
    let output = bed.run(node, &["router", "--config", config])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "it ended with {} and said\n{said}", output.status);
    Ok(said)
}

fn says(said: &str, words: &[&str]) -> Outcome {
    for word in words {
        ensure!(said.contains(word), "{word:?} is not in what it said:\n{said}");
    }
    Ok(())
}

// proves that a config with a missing interface is a clear error
fn missing_interface(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    for (name, hint) in [("src1", "did you mean `src0`?"), ("uplink-9", "present are acc1, lo, src0")] {
        let path = config(bed, &format!("[[interface]]\nname = \"{name}\"\n"))?;
        let said = fails(bed, &small.vmr, &path)?;
        says(&said, &[&format!("there is no interface `{name}` on this host"), "wrong.toml:5:", hint])?;
    }
    Ok(())
}

fn unknown_key(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let path = config(bed, "[[interface]]\nname = \"src0\"\naccept_sources = true\n")?;
    let said = fails(bed, &small.vmr, &path)?;
    says(&said, &["wrong.toml:6:1", "accept_sources", "did you mean `accepts_sources`?"])
}

fn port_in_use(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let _taken = small.vmr.enter(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 2268)))??;
    let path = config(bed, "[[interface]]\nname = \"src0\"\n")?;
    let said = fails(bed, &small.vmr, &path)?;
    says(&said, &[&format!("{VMR}:2268"), "the port free", "in use"])
}

fn same_socket(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let mut first = small.router(bed, Router::default())?;
    let said = fails(bed, &small.vmr, &bed.lab.dir().join("vmr.toml"))?;
    says(&said, &[&first.socket.display().to_string(), "another daemon"])?;
    first.check_alive()?;
    let status = first.ask(&["status"]).unwrap_or_default();
    ensure!(status["pid"] == first.process.pid(), "who answers now is {status}");
    Ok(())
}
