//! What a machine boots: a kernel that is decompressed already, which would take the emulator several seconds.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use libtest_mimic::Failed;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{bed::ensure, pieces::Kernel};

// Where an image says what is in it (Linux, Documentation/arch/x86/boot.rst): how many sectors are before its protected
// mode, and where from there on the compressed kernel is, with its own length behind it.
const SECTORS: usize = 0x1f1;
const PAYLOAD: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// The programs that decompress, and how what they take begins.
const PROGRAMS: [(&str, &[u8]); 2] = [("xz", b"\xfd7zXZ\0"), ("zstd", b"\x28\xb5\x2f\xfd")];

/// Each image in memory, or none if it cannot be.
static IMAGES: Mutex<BTreeMap<PathBuf, Option<File>>> = Mutex::new(BTreeMap::new());

/// The file that the emulator shall boot: the kernel itself, or its compressed image if it cannot be had.
pub(super) fn of(kernel: &Kernel) -> PathBuf {
    let image = kernel.image();
    let mut images = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let decompressed = images.entry(image.clone()).or_insert_with(|| {
        let tell = |failed: &Failed| {
            let why = failed.message().unwrap_or_default();
            eprintln!("{} is decompressed by each machine: {why}", image.display());
        };
        decompress(&image).inspect_err(tell).ok()
    });
    let open = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
    decompressed.as_ref().map_or(image, open)
}

fn decompress(image: &Path) -> Result<File, Failed> {
    let bytes = fs::read(image)?;
    let (compressed, length) = payload(&bytes).ok_or("it is no image of a kernel")?;
    let program = PROGRAMS.iter().find(|(_, begin)| compressed.starts_with(begin));
    let (program, _) = program.ok_or("its compression is another")?;
    let file = File::from(memfd_create(c"kernel", MFdFlags::MFD_CLOEXEC)?);
    let mut child =
        Command::new(program).arg("-dc").stdin(Stdio::piped()).stdout(file.try_clone()?).spawn()?;
    let fed = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(compressed));
    let status = child.wait()?;
    fed?;
    let came = file.metadata()?.len();
    ensure!(status.success() && came == u64::from(length), "{program} made {came} bytes of it, not {length}");
    Ok(file)
}

/// What is compressed in an image, and how long it is when it is not.
fn payload(image: &[u8]) -> Option<(&[u8], u32)> {
    let number = |at| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?));
    let sectors = usize::from(*image.get(SECTORS)?);
    let begin = (sectors + 1) * SECTOR + usize::try_from(number(PAYLOAD)?).ok()?;
    let payload = image.get(begin..)?.get(..usize::try_from(number(PAYLOAD_LENGTH)?).ok()?)?;
    let (compressed, length) = payload.split_last_chunk()?;
    Some((compressed, u32::from_le_bytes(*length)))
}
