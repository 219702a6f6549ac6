//! `mosbuild boot` on a terminal, and boot tests, with a kernel that only prints and echoes. Real images are booted by
//! scripts/test-boot.

use std::time::Duration;

use mosbuild_tests::machine::{Terminal, kernel};
use mosbuild_tests::{Space, need};

const YAML: &str = r#"vars: { arch: x86_64 }
targets:
  made: { rule: command, inputs: kernel, run: 'cp kernel "$OUT/kernel"', outputs: kernel }
  boot: { rule: boot-test, kernel: made, memory: 64M, expect: READY, timeout: 10 }
"#;
/// How long a machine may take to print its line; the host may be busy.
const PATIENCE: Duration = Duration::from_secs(90);
const LINES: &str = "Linux version 6.0\nRun /init as init process\nREADY\n";

fn space(text: &str) -> Space {
    need("qemu-system-x86_64", "qemu-system-x86");
    let space = Space::new(YAML);
    space.write("kernel", kernel(text));
    space
}

#[test]
fn the_console_is_attached_ctrl_c_ends_it_and_disks_stay() {
    need("script", "bsdutils");
    let mut space = space("the machine runs\n");
    let boots = |space: &Space, args: &[&str]| -> String {
        let mut terminal = Terminal::start(&space.command(&[&["boot", "made"], args].concat()));
        terminal.wait_for("the machine runs", PATIENCE);
        terminal.types("x7q");
        terminal.wait_for("x7q", PATIENCE);
        terminal.types("\x03");
        let (status, output) = terminal.finish(PATIENCE);
        assert_eq!(status.code(), Some(0), "{output}");
        output
    };
    let output = boots(&space, &["--disks", "2", "--disk-size", "8M"]);
    assert!(output.contains("starting qemu-system-x86_64") && output.contains("Ctrl-C ends it"), "{output}");
    let disk = |n: u32| format!(".mosbuild/disks/made-{n}.img");
    assert_eq!(space.bytes(&disk(0)).len(), 8 << 20);
    assert!(space.has(&disk(1)) && !space.has(&disk(2)));
    assert_eq!(std::fs::read_dir(space.path(".mosbuild/tmp")).unwrap().count(), 0);

    // As they were left, and one more by the variable; the sizes of those that are there are no others.
    let mut written = space.bytes(&disk(0));
    written[..4].copy_from_slice(b"kept");
    space.write(&disk(0), &written);
    space.env("NUM_DISKS", "3");
    space.env("DISK_SIZE", "8M");
    boots(&space, &[]);
    assert!(space.bytes(&disk(0)).starts_with(b"kept"));
    assert_eq!(space.bytes(&disk(2)).len(), 8 << 20);
    let other = space.run(&["boot", "made", "--disk-size", "16M"]);
    assert_eq!(other.code, Some(2), "{other}");
    other
        .says("made-0.img has 8.0 MiB, not the 16.0 MiB of --disk-size")
        .says("--reset makes the disks anew");

    boots(&space, &["--reset", "--disks", "1"]);
    assert!(space.bytes(&disk(0)).iter().all(|b| *b == 0));
    assert!(!space.has(&disk(1)) && !space.has(&disk(2)));
}

#[test]
fn a_boot_test_says_how_soon_what_was_there() {
    let space = space(LINES);
    space.builds(&["boot"]);
    let facts = space.json(&["show", "boot", "--json"])["facts"].clone();
    let seconds = |name: &str| {
        facts[name].as_str().and_then(|t| t.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}: {facts}"))
    };
    assert!(seconds("kernel_seconds") <= seconds("init_seconds"), "{facts}");
    assert!(seconds("init_seconds") <= seconds("seconds"), "{facts}");
    let tests = space.json(&["test", "--json"]);
    let test = &tests["tests"][0];
    assert_eq!((&test["result"], &test["cached"]), (&"pass".into(), &true.into()), "{tests}");
    assert!(test["init_seconds"].is_number() && test["seconds"].is_number(), "{tests}");
    let table = space.run(&["test"]);
    for column in ["kernel", "init", "marker"] {
        assert!(table.stdout.lines().next().is_some_and(|head| head.contains(column)), "{table}");
    }
    assert!(space.log("boot").contains("Linux version 6.0"));
}

#[test]
fn what_no_boot_may_show_fails_it_and_the_console_is_kept() {
    let space = space(LINES);
    for line in [
        "Kernel panic - not syncing: x",
        "Initramfs unpacking failed: junk",
        "bnx2 0000:00:03.0: Direct firmware load for bnx2/x.fw failed with error -2",
        "virtio_net: Unknown symbol failover_register (err -2)",
        "e1000: disagrees about version of symbol module_layout",
    ] {
        space.write("kernel", kernel(&format!("Linux version 6.0\n{line}\nREADY\n")));
        let output = space.build(&["boot"]);
        assert_eq!(output.code, Some(1), "{output}");
        output.says(&format!("its output has a forbidden line: {line}"));
        output.says("how far it came: \"Linux version\" after").says("no \"as init process\"");
        assert!(space.log("boot").contains(line));
    }
}

#[test]
fn what_a_host_lacks_is_3_with_the_command_that_installs_it() {
    let mut space = space(LINES);
    let bare = space.path("bin");
    std::fs::create_dir(&bare).unwrap();
    space.env("PATH", &bare);
    let qemu = space.run(&["boot", "made"]);
    assert_eq!(qemu.code, Some(3), "{qemu}");
    qemu.says("qemu-system-x86_64 is not installed").says("sudo apt-get install qemu-system-x86");
    space.env("HYPERVISOR", "ch");
    let ch = space.run(&["boot", "made"]);
    assert_eq!(ch.code, Some(3), "{ch}");
    ch.says("cloud-hypervisor is not installed").says("Debian 12 has no package of it");
    let uefi = space.run(&["boot", "made", "--uefi"]);
    assert_eq!(uefi.code, Some(2), "{uefi}");
    uefi.says("UEFI is started by QEMU only");
    space.unset("HYPERVISOR");
    space.unset("PATH");
    let bridge = space.run(&["boot", "made", "--bridge", "no-such-br"]);
    assert_eq!(bridge.code, Some(3), "{bridge}");
    bridge.says("there is no bridge no-such-br").says("sudo ip link add no-such-br type bridge");
    let tap = space.run(&["boot", "made", "--tap", "no-such-tap"]);
    assert_eq!(tap.code, Some(3), "{tap}");
    tap.says("there is no TAP device no-such-tap");
}

#[test]
fn firmware_is_uefi_or_none_and_a_kernel_that_is_no_efi_program_goes_in_no_uki() {
    let space = space(LINES);
    space.edit_yaml("timeout: 10", "timeout: 10, firmware: bios");
    let wrong = space.build(&["boot"]);
    assert_eq!(wrong.code, Some(2), "{wrong}");
    wrong.says("unknown firmware bios").says("`firmware: uefi`");
    space.edit_yaml(", firmware: bios", "");
    space.edit_yaml("  boot:", "  uki: { rule: uki, kernel: made, cmdline: quiet, stub: stub.efi }\n  boot:");
    space.write("stub.efi", "MZ");
    let output = space.build(&["uki"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("the kernel: not an EFI program of 64 bits").says("CONFIG_EFI_STUB");
}
