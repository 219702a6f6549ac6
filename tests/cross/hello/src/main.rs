// Says what it was compiled for and where; a thread and a caught panic need more of libc than that.
fn main() {
    let caught = std::thread::spawn(|| std::panic::catch_unwind(|| panic!("wanted")).is_err()).join();
    assert!(matches!(caught, Ok(true)));
    println!("MOSBUILD-CROSS-RUST {} built on {}", std::env::consts::ARCH, env!("BUILT_ON"));
}
