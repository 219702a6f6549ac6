fn main() {
    let release = std::fs::read_to_string("/etc/alpine-release").unwrap_or_default();
    println!("hello {}", release.trim());
}
