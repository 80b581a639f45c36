//! How a machine is started: the emulator's command line and what the kernel finds in memory.

use std::{env, fs, path::Path, process::Command, time::Duration};

use libtest_mimic::Failed;

use super::{image, initramfs::Initramfs, modules};
use crate::{frame::text, guest, pieces::Kernel, waits::PATIENCE};

/// How long a machine lives, whatever else happens: longer than its test.
const LIFE: Duration = PATIENCE.saturating_add(Duration::from_secs(120));

/// Megabytes of memory.
const MEMORY: &str = "768";

/// The link-layer address of the machine's `eth0`.
pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0x70, 2];

/// Whether its timer ticks is not checked: that takes the host for fast, and ends a machine which gets no processor
/// for a moment.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check";

/// What the kernel unpacks into memory: busybox, the first modules, the first program.
pub(super) fn initramfs(kernel: &Kernel) -> Result<Vec<u8>, Failed> {
    let mut archive = Initramfs::default();
    for name in ["bin", "dev", "host", "layer", "modules", "proc", "root"] {
        archive.directory(name);
    }
    archive.program("bin/busybox", &fs::read(kernel.pieces.tools().join("bin/busybox"))?);
    for (place, file) in modules::first(kernel)?.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // A shell lists them in this order.
        archive.program(&format!("modules/{place:02}-{name}"), &fs::read(file)?);
    }
    archive.program("init", init(kernel)?.as_bytes());
    Ok(archive.finish())
}

fn init(kernel: &Kernel) -> Result<String, Failed> {
    let kmod = kernel.pieces.tools().join("bin/kmod");
    // Kmod is the program that it is called by.
    let modprobe = format!(
        "export LD_LIBRARY_PATH={}\nexec /bin/bash -c 'exec -a modprobe {} -d {} \"$@\"' modprobe \"$@\"",
        kernel.pieces.libraries(),
        kmod.display(),
        kernel.dir().display()
    );
    let agent = format!("{} {} agent", env::current_exe()?.display(), guest::WORD);
    Ok(include_str!("init.sh")
        .replace("@LIMIT@", &LIFE.as_secs().to_string())
        .replace("@MODPROBE@", &modprobe)
        .replace("@AGENT@", &agent))
}

/// The emulator, ready to be started in the namespace of the tap.
pub(super) fn emulator(kernel: &Kernel, initramfs: &Path, share: &Path, tap: &str) -> Command {
    let tools = kernel.pieces.tools();
    let mut command = Command::new(kernel.pieces.emulator());
    command
        .env("LD_LIBRARY_PATH", kernel.pieces.libraries())
        // Where a machine runs in a machine, KVM may hang at boot; without it the speed suffices.
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", MEMORY])
        .arg("-L")
        .arg(tools.join("usr/share/qemu"))
        .arg("-L")
        .arg(tools.join("usr/share/seabios"))
        .args(["-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot", "-kernel"])
        .arg(image::of(kernel))
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", COMMAND_LINE, "-virtfs"])
        .arg("local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap")
        .arg("-virtfs")
        .arg(format!("local,path={},mount_tag=share,security_model=none,multidevs=remap", share.display()))
        .arg("-netdev")
        .arg(format!("tap,id=wire,ifname={tap},script=no,downscript=no"))
        // Whole packets with their checksums, as on a cable.
        .arg("-device")
        .arg(format!(
            "virtio-net-pci,netdev=wire,mac={},romfile=,csum=off,guest_csum=off,gso=off",
            text(MAC)
        ));
    command
}
