//! What a virtual machine is started with, as QEMU's parameters: its disks, its firmware, and the way the kernel gets in.
//! Knows QEMU's command line; starts nothing, and does not know whose console it is.

/// How the kernel gets into the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// By QEMU's own loader; where there is firmware, that is handed all three, and starts the kernel as an EFI program.
    Direct {
        /// Path of the image.
        kernel: String,
        /// Path of an archive beside it.
        initramfs: Option<String>,
        /// Kernel parameters; none at all if empty.
        cmdline: String,
    },
    /// By firmware, from an EFI system partition, as it starts a computer: without parameters.
    Partition {
        /// The folder that stands for it, with the program at [`crate::Arch::efi_program`].
        folder: String,
    },
}

/// UEFI firmware of QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Path of the firmware.
    pub code: String,
    /// Path of a file for its variables, which it writes to; where there is none it keeps them in memory.
    pub vars: Option<String>,
}

/// What differs from machine to machine, whoever starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The kernel.
    pub start: Start,
    /// None: QEMU's loader starts the kernel by its own protocol.
    pub firmware: Option<Firmware>,
    /// Paths of raw disk images.
    pub disks: Vec<String>,
}

impl Parts {
    /// QEMU's parameters for them.
    pub fn qemu(&self) -> Vec<String> {
        let mut argv: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| argv.extend(words.iter().map(|w| (*w).to_owned()));
        if let Some(firmware) = &self.firmware {
            match &firmware.vars {
                Some(vars) => {
                    let code = value(&firmware.code);
                    add(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={code}")]);
                    add(&["-drive", &format!("if=pflash,unit=1,format=raw,file={}", value(vars))]);
                }
                None => add(&["-bios", &firmware.code]),
            }
        }
        for (i, disk) in self.disks.iter().enumerate() {
            add(&["-drive", &format!("file={},if=none,id=disk{i},format=raw", value(disk))]);
            add(&["-device", &format!("virtio-blk-pci,drive=disk{i}")]);
        }
        match &self.start {
            Start::Direct { kernel, initramfs, cmdline } => {
                add(&["-kernel", kernel]);
                if let Some(initramfs) = initramfs {
                    add(&["-initrd", initramfs]);
                }
                if !cmdline.is_empty() {
                    add(&["-append", cmdline]);
                }
            }
            // Behind the disks, so that these keep their names.
            Start::Partition { folder } => {
                let folder = value(folder);
                add(&["-blockdev", &format!("driver=vvfat,node-name=esp,read-only=on,dir={folder}")]);
                add(&["-device", "virtio-blk-pci,drive=esp,bootindex=0"]);
            }
        }
        argv
    }
}

/// A comma in a value is written twice.
fn value(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_stands_behind_the_disks_and_is_booted_first() {
        let firmware = |vars: Option<&str>| Firmware { code: "/c.fd".into(), vars: vars.map(str::to_owned) };
        let mut parts = Parts {
            start: Start::Partition { folder: "/a,b".into() },
            firmware: Some(firmware(Some("v.fd"))),
            disks: vec!["d,0.img".into()],
        };
        assert_eq!(
            parts.qemu().join(" "),
            "-drive if=pflash,unit=0,format=raw,readonly=on,file=/c.fd -drive if=pflash,unit=1,format=raw,file=v.fd \
             -drive file=d,,0.img,if=none,id=disk0,format=raw -device virtio-blk-pci,drive=disk0 \
             -blockdev driver=vvfat,node-name=esp,read-only=on,dir=/a,,b -device virtio-blk-pci,drive=esp,bootindex=0"
        );
        parts.start =
            Start::Direct { kernel: "/k".into(), initramfs: Some("/i".into()), cmdline: String::new() };
        parts.firmware = Some(firmware(None));
        parts.disks.clear();
        assert_eq!(parts.qemu().join(" "), "-bios /c.fd -kernel /k -initrd /i");
        parts.firmware = None;
        parts.start = Start::Direct { kernel: "/k".into(), initramfs: None, cmdline: "a b".into() };
        assert_eq!(parts.qemu(), ["-kernel", "/k", "-append", "a b"]);
    }
}
