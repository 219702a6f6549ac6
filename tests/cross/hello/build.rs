// Runs on the host, whatever the program is compiled for.
fn main() {
    println!("cargo::rustc-env=BUILT_ON={}", std::env::consts::ARCH);
}
