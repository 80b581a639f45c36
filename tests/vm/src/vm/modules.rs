//! Which modules a kernel needs to reach the host's files and the wire.

use std::{fs, path::PathBuf};

use libtest_mimic::Failed;

use crate::pieces::Kernel;

/// What the machine cannot start without; whatever else it needs it loads from the host's files.
const FIRST: [&str; 5] = ["virtio_pci", "virtio_net", "9p", "9pnet_virtio", "overlay"];

/// The files of the first modules in the order in which they are loaded.
pub(super) fn first(kernel: &Kernel) -> Result<Vec<PathBuf>, Failed> {
    let directory = kernel.modules();
    let dependencies = fs::read_to_string(directory.join("modules.dep"))?;
    let order = FIRST.iter().flat_map(|name| with_dependencies(&dependencies, name));
    let mut files: Vec<PathBuf> = Vec::new();
    for file in order.map(|file| directory.join(file)) {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    Ok(files)
}

/// The files of a module and of what it needs, in the order in which they are loaded; none if it is part of
/// the kernel itself.
fn with_dependencies<'a>(dependencies: &'a str, name: &str) -> Vec<&'a str> {
    let line = dependencies.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        (file.rsplit('/').next()?.strip_suffix(".ko")? == name).then_some((file, needs))
    });
    // What is needed stands behind the module, last what is loaded first.
    line.map_or_else(Vec::new, |(file, needs)| {
        needs.split_whitespace().rev().chain(std::iter::once(file)).collect()
    })
}
