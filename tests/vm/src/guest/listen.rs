//! A receiver inside the machine: joins, and writes down what comes until it is told to end.

use std::{
    fs::File,
    io::{self, Write as _},
    net::IpAddr,
};

use libtest_mimic::Failed;

use super::agent::own_files;
use crate::numbered::{Stream, number, socket, write};

/// Lines are written out when so many bytes have gathered, or nothing comes for a moment.
const GATHER: usize = 4096;

/// `listen INTERFACE GROUP PORT [SOURCE]`
pub(super) fn run(arguments: &[&str]) -> Result<(), Failed> {
    let [interface, group, port, source @ ..] = arguments else {
        return Err("listen needs an interface, a group and a port".into());
    };
    let stream = Stream { group: group.parse()?, port: port.parse()? };
    let source: Option<IpAddr> = source.first().map(|source| source.parse()).transpose()?;
    let files = own_files()?;
    let socket = socket::listener(stream, source, interface)?;
    let mut heard = File::create(files.heard())?;
    let mut lines = String::new();
    let mut buffer = vec![0; 65536];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => write(&mut lines, from.ip(), number(&buffer[..length])),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                heard.write_all(lines.as_bytes())?;
                lines.clear();
                if files.stop().exists() {
                    return Ok(());
                }
            }
            Err(error) => return Err(error.into()),
        }
        if lines.len() >= GATHER {
            heard.write_all(lines.as_bytes())?;
            lines.clear();
            if files.stop().exists() {
                return Ok(());
            }
        }
    }
}
