//! Writes the seeds where cargo-fuzz looks for them: `corpus/TARGET` below this package.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    for (target, seeds) in vmcast_fuzz::seeds::ALL {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        for (number, seed) in seeds().iter().enumerate() {
            fs::write(corpus.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
