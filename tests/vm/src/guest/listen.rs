//! Receivers inside the machine: they join, and write down what comes until they are told to end.

use std::{
    fs::File,
    io::{self, Write as _},
    net::{IpAddr, UdpSocket},
    path::Path,
    thread,
};

use libtest_mimic::Failed;

use super::agent::own_files;
use crate::numbered::{Stream, number, socket, write};

/// Lines are written out when so many bytes have gathered, or nothing comes for a moment.
const GATHER: usize = 4096;

/// `listen INTERFACE,GROUP,PORT[,SOURCE] …`: each receiver has a file of its own.
pub(super) fn run(arguments: &[&str]) -> Result<(), Failed> {
    let files = own_files()?;
    let sockets: Vec<UdpSocket> = arguments.iter().map(|text| join(text)).collect::<Result<_, _>>()?;
    // The last file says that all have joined.
    let heard: Vec<File> =
        (0..sockets.len()).map(|place| File::create(files.heard(place))).collect::<Result<_, _>>()?;
    let stop = &files.stop();
    thread::scope(|scope| {
        let threads: Vec<_> = sockets
            .into_iter()
            .zip(heard)
            .map(|(socket, heard)| scope.spawn(move || listen(&socket, heard, stop)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a receiver panicked")?)
    })
}

fn join(text: &str) -> Result<UdpSocket, Failed> {
    let parts: Vec<&str> = text.split(',').collect();
    let [interface, group, port, source @ ..] = parts.as_slice() else {
        return Err("a receiver needs an interface, a group and a port".into());
    };
    let stream = Stream { group: group.parse()?, port: port.parse()? };
    let source: Option<IpAddr> = source.first().map(|source| source.parse()).transpose()?;
    Ok(socket::listener(stream, source, interface)?)
}

fn listen(socket: &UdpSocket, mut heard: File, stop: &Path) -> Result<(), Failed> {
    let mut lines = String::new();
    let mut buffer = vec![0; 65536];
    loop {
        match socket::receive(socket, &mut buffer) {
            Ok((length, from, class)) => write(&mut lines, from, class, number(&buffer[..length])),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                heard.write_all(lines.as_bytes())?;
                lines.clear();
                if stop.exists() {
                    return Ok(());
                }
            }
            Err(error) => return Err(error.into()),
        }
        if lines.len() >= GATHER {
            heard.write_all(lines.as_bytes())?;
            lines.clear();
            if stop.exists() {
                return Ok(());
            }
        }
    }
}
