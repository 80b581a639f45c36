//! Temporary.
fn main() {
    vmcast_lab::signals::install().unwrap();
    let s: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let length = (s > 0).then(|| std::time::Duration::from_secs(s));
    let o = vmcast_lab::scenario::RunOptions {
        program: "/tmp/standin/vmcast".into(),
        engine: Default::default(),
        length,
        report: Some("/tmp/standin/report.json".into()),
    };
    match vmcast_lab::scenario::run(&o) {
        Ok(r) => std::process::exit(i32::from(!r.passed)),
        Err(e) => {
            println!("{e}");
            std::process::exit(2)
        }
    }
}
