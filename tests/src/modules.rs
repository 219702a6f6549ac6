//! Kernel modules made by the assembler: ELF objects with a `.modinfo` of the test's choice, and nothing else.
//! Knows no kernel; none could load them.

use std::process::Command;

use crate::{Space, need};

/// A folder in a workspace that becomes lib/modules/VERSION.
pub struct ModuleDir<'a> {
    space: &'a Space,
    dir: &'a str,
}

impl<'a> ModuleDir<'a> {
    /// The folder of this name; made with the first file.
    pub fn new(space: &'a Space, dir: &'a str) -> ModuleDir<'a> {
        need("as", "binutils");
        ModuleDir { space, dir }
    }

    /// A module with these names of firmware. The path ends in `.ko`, or in `.ko.gz`, `.ko.xz` or `.ko.zst`.
    pub fn module(&self, path: &str, firmware: &[&str]) -> &Self {
        let name = path.rsplit('/').next().unwrap().split('.').next().unwrap().replace('-', "_");
        let mut fields = vec![format!("name={name}"), "license=GPL".into(), "depends=".into()];
        fields.extend(firmware.iter().map(|name| format!("firmware={name}")));
        self.fields(path, &fields)
    }

    /// A module with these fields, `key=value`.
    pub fn fields(&self, path: &str, fields: &[String]) -> &Self {
        self.code(path, fields, ".byte 0x90")
    }

    /// A module with these fields and this code.
    pub fn code(&self, path: &str, fields: &[String], code: &str) -> &Self {
        let strings: String = fields.iter().map(|field| format!(".asciz {field:?}\n")).collect();
        let source = format!(".text\n{code}\n.section .modinfo,\"a\"\n{strings}");
        let (plain, packed) = path.split_at(path.find(".ko").unwrap() + 3);
        let full = format!("{}/{plain}", self.dir);
        self.space.write(&full, "");
        self.space.write("module.s", source);
        let at = self.space.path(&full);
        run(Command::new("as").arg("-o").arg(&at).arg(self.space.path("module.s")));
        self.space.remove("module.s");
        match packed {
            "" => {}
            ".gz" => run(Command::new("gzip").arg("-n").arg(&at)),
            ".xz" => run(Command::new("xz").args(["--check=crc32", "--quiet"]).arg(&at)),
            ".zst" => run(Command::new("zstd").args(["--quiet", "--rm"]).arg(&at)),
            other => panic!("{other} is no suffix of modules"),
        }
        // As the assembler left it, it may be its own user's alone.
        self.space.chmod(&format!("{}/{path}", self.dir), 0o644);
        self
    }

    /// modules.builtin and modules.builtin.modinfo of modules in the kernel itself: name and firmware.
    pub fn builtin(&self, modules: &[(&str, &[&str])]) -> &Self {
        let mut list = String::new();
        let mut modinfo = Vec::new();
        for (name, firmware) in modules {
            list.push_str(&format!("kernel/drivers/{name}.ko\n"));
            for field in firmware.iter().map(|f| format!("firmware={f}")).chain(["license=GPL".into()]) {
                modinfo.extend_from_slice(format!("{name}.{field}\0").as_bytes());
            }
        }
        self.space.write(&format!("{}/modules.builtin", self.dir), list);
        self.space.write(&format!("{}/modules.builtin.modinfo", self.dir), modinfo);
        self
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}
