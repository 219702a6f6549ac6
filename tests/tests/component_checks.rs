//! What a component's programs are held to, whoever made them: static, of the right architecture, without paths of the
//! place where they were built, and the same when built twice.

use std::process::Command;

use mosbuild_tests::archive::{content, members};
use mosbuild_tests::{Output, Space, need};

const TARGET: &str = "target: x86_64-unknown-linux-gnu";

/// A component `app` of cargo, of one file.
fn cargo(main: &str, fields: &str) -> Space {
    let space = Space::new(&format!(
        "targets:\n  app: {{ rule: component, source: {{ path: app }}, {TARGET}, install: {{ app: /bin/app }}{fields} }}\n"
    ))
    .with_rust();
    space.write("app/Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
    space.write("app/Cargo.lock", "version = 3\n\n[[package]]\nname = \"app\"\nversion = \"1.0.0\"\n");
    space.write("app/src/main.rs", main);
    space
}

/// A component `app` of C, by a script.
fn script(build: &str, fields: &str) -> Space {
    need("gcc", "gcc");
    let lines: String = build.lines().map(|line| format!("      {line}\n")).collect();
    let space = Space::new(&format!(
        "targets:\n  app:\n    rule: component\n    source: {{ path: app }}\n{fields}    build: |\n{lines}    \
         install: {{ bin/app: /bin/app }}\n"
    ));
    space.write(
        "app/main.c",
        "#include <assert.h>\n#include <stdio.h>\nint main(int argc, char **argv) {\n\
                               assert(argc < 9); printf(\"%s\\n\", __FILE__); return argc - 1;\n}\n",
    );
    space
}

const STATIC: &str = "mkdir $OUT/bin\ncc $CFLAGS -static -o $OUT/bin/app $PWD/main.c\n";

#[track_caller]
fn refused(space: &Space, text: &str) -> Output {
    let output = space.build(&[]);
    assert_eq!(output.code, Some(1), "{output}");
    output.counts(0, 0, 1);
    let message = output.failure("app")["message"].as_str().unwrap();
    assert!(message.contains(text), "{message}");
    assert_eq!(output.failure("app")["step"], "install", "{output}");
    output
}

fn help(output: &Output) -> String {
    output.failure("app")["help"].to_string()
}

#[test]
fn a_dynamic_program_is_refused_and_can_be_allowed() {
    let space = script("mkdir $OUT/bin\ncc -o $OUT/bin/app main.c", "");
    let output =
        refused(&space, "bin/app is not static: it asks for /lib64/ld-linux-x86-64.so.2, with libc.so.6");
    assert!(
        help(&output).contains("link it with -static") && help(&output).contains("`allow: dynamic`"),
        "{output}"
    );
    space.edit_yaml("    install:", "    allow: dynamic\n    install:");
    let output = space.builds(&[]);
    // The compiled program is the same: only what is checked is another.
    assert_eq!(output.named("step_started", "step"), ["install"]);

    // Without a loader, but with libraries that it needs.
    let space = script("mkdir $OUT/bin\ncc -shared -fPIC -o $OUT/bin/app main.c", "");
    refused(&space, "bin/app is not static: it needs libc.so.6");

    // Cargo's: flags of one's own come behind ours, but these take their place.
    let space = cargo("fn main() {}\n", ", env: { CARGO_ENCODED_RUSTFLAGS: \"-Copt-level=1\" }");
    let output = refused(&space, "app is not static: it asks for /lib64/ld-linux-x86-64.so.2");
    assert!(help(&output).contains("crt-static"), "{output}");
}

#[test]
fn another_architecture_is_refused() {
    // e_machine of aarch64.
    let space =
        script(&format!("{STATIC}printf '\\267\\000' | dd of=$OUT/bin/app bs=1 seek=18 conv=notrunc"), "");
    let output = refused(&space, "bin/app is for aarch64, but the target is x86_64-unknown-linux-musl");
    assert!(help(&output).contains("$TARGET"), "{output}");
    space.edit_yaml("    build:", "    allow: [dynamic, host-paths]\n    build:");
    refused(&space, "bin/app is for aarch64");
}

#[test]
fn paths_of_the_sandbox_are_kept_out_and_those_left_are_refused() {
    // file!(), a panic in generated code, C as the cc crate compiles it, debug information of all of it.
    let main = "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\n\
                extern \"C\" { fn where_it_is() -> *const std::ffi::c_char; }\n\
                fn main() {\n    let n: Vec<usize> = std::env::args().map(|a| a.len()).collect();\n    \
                let c = unsafe { std::ffi::CStr::from_ptr(where_it_is()) };\n    \
                println!(\"{} {c:?} {} {}\", file!(), made(&n), n.iter().copied().reduce(|a, b| a / b).unwrap());\n}\n";
    let space =
        cargo(main, ", env: { CARGO_PROFILE_RELEASE_DEBUG: \"2\", CARGO_PROFILE_RELEASE_STRIP: none }");
    space.write(
        "app/build.rs",
        r#"use std::process::Command;
fn main() {
    let var = |name: &str| std::env::var(name).unwrap();
    let out = var("OUT_DIR");
    std::fs::write(format!("{out}/made.rs"), "fn made(n: &[usize]) -> usize { n[n.len() - 1] + file!().len() }").unwrap();
    let mut cc = Command::new("cc");
    cc.args(var("CFLAGS").split_whitespace()).args(["-g", "-c", "-o"]).arg(format!("{out}/part.o"));
    assert!(cc.arg(format!("{}/part.c", var("CARGO_MANIFEST_DIR"))).status().unwrap().success());
    let mut ar = Command::new("ar");
    assert!(ar.arg("crs").arg(format!("{out}/libpart.a")).arg(format!("{out}/part.o")).status().unwrap().success());
    println!("cargo:rustc-link-search=native={out}");
    println!("cargo:rustc-link-lib=static=part");
}
"#,
    );
    space.write("app/part.c", "const char *where_it_is(void) { return __FILE__; }\n");
    space.builds(&[]);
    let program = content(&space.path("dist/app.tar"), "bin/app");
    let has = |text: &str| program.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(has(".debug_info"), "there is debug information");
    assert!(has("/rustc/") && !has("/build/src") && !has("/build/target") && !has("/mosbuild/rust"));
    let at = space.base().join("app");
    std::fs::write(&at, &program).unwrap();
    std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = String::from_utf8(Command::new(&at).output().unwrap().stdout).unwrap();
    assert!(said.starts_with("src/main.rs \"./part.c\" "), "{said}");

    // Text is beyond any flag.
    space.edit(
        "app/src/main.rs",
        "fn main() {\n",
        "fn main() {\n    println!(env!(\"CARGO_MANIFEST_DIR\"));\n",
    );
    let output = refused(&space, "app has paths of the place where it was built in it:\n\"/build/src");
    assert!(
        output.failure("app")["message"].as_str().unwrap().contains("; section .rodata, offset 0x"),
        "{output}"
    );
    assert!(
        help(&output).contains("CARGO_MANIFEST_DIR") && help(&output).contains("`allow: host-paths`"),
        "{output}"
    );
    space.edit_yaml("install:", "allow: [host-paths], install:");
    space.builds(&[]);
}

#[test]
fn a_script_has_flags_that_keep_its_paths_out() {
    let space = script(&STATIC.replace("-static", "-g -static"), "");
    space.builds(&[]);
    let program = content(&space.path("dist/app.tar"), "bin/app");
    let run = |at: &std::path::Path| String::from_utf8(Command::new(at).output().unwrap().stdout).unwrap();
    let at = space.base().join("app");
    std::fs::write(&at, program).unwrap();
    std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(run(&at), "./main.c\n");
    // Without them, __FILE__ and the debug information name the sandbox.
    space.edit_yaml("cc $CFLAGS", "cc");
    let output = refused(&space, "\"/build/src");
    assert!(
        output.failure("app")["message"].as_str().unwrap().contains("the source in the sandbox"),
        "{output}"
    );
    assert!(help(&output).contains("compile with $CFLAGS"), "{output}");
}

#[test]
fn paths_of_the_user_come_with_the_source_and_are_refused_too() {
    let space = script(STATIC, "");
    let home = space.base().join("home").join("x.c");
    space.write(
        "app/main.c",
        format!(
            "const char *where = {:?};\nint main(void) {{ return !where[0]; }}\n",
            home.display().to_string()
        ),
    );
    let output = refused(&space, "(the user's home; section .rodata, offset 0x");
    let workspace = space.path("here.c").display().to_string();
    space.edit("app/main.c", &home.display().to_string(), &workspace);
    refused(&space, "(the workspace's path; section .rodata, offset 0x");
    // They decide no result: what passed is the same for others.
    assert!(!output.stderr.contains("RUSTUP_HOME"), "{output}");
}

#[test]
fn a_component_of_c_by_a_makefile_with_several_names_and_modes_as_a_plain_user() {
    need("make", "make");
    let space = Space::new(
        "targets:\n  tools:\n    rule: component\n    source: { path: src }\n    env: { CFLAGS: -DNAME=own }\n    \
         build: |\n      make\n      mkdir -p $OUT/etc\n      cp one two $OUT\n      echo \"$ARCH $TARGET\" > $OUT/etc/tools.conf\n    \
         install:\n      one: { to: [/usr/bin/one, /usr/bin/uno], mode: \"4755\" }\n      two: /sbin/two\n      \
         etc/tools.conf: { to: /etc/tools.conf, mode: \"0640\" }\n  \
         root: { rule: rootfs, layers: [tools] }\n  alone: { rule: cpio, root: root, compress: none }\n\
         dist: { tools.tar: tools, two: \"tools:two\" }\n",
    );
    space.write("src/Makefile", "all: one two\n%: %.c\n\tcc $(CFLAGS) -static -o $@ $<\n");
    for name in ["one", "two"] {
        space.write(
            &format!("src/{name}.c"),
            "#include <stdio.h>\n#define TEXT(x) #x\n#define STRING(x) TEXT(x)\n\
             int main(void) { puts(STRING(NAME)); return 0; }\n",
        );
    }
    let space = space.as_plain_user();
    space.builds(&["tools", "alone"]).counts(3, 0, 0);
    let tar = space.path("dist/tools.tar");
    let all = members(&tar);
    let mode = |path: &str| all[path].mode.clone();
    assert_eq!(mode("usr/bin/one"), "-rwsr-xr-x");
    assert_eq!(content(&tar, "usr/bin/one"), content(&tar, "usr/bin/uno"));
    assert_eq!((mode("sbin/two").as_str(), mode("etc/tools.conf").as_str()), ("-rwxr-xr-x", "-rw-r-----"));
    assert_eq!(content(&tar, "etc/tools.conf"), b"x86_64 x86_64-unknown-linux-musl\n");
    assert_eq!(space.bytes("dist/two"), content(&tar, "sbin/two"));
    // Flags of one's own are behind ours.
    let output = Command::new(space.path("dist/two")).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "own\n");
    space.assert_clean();
}

#[test]
fn what_is_built_twice_must_be_the_same() {
    let space = script(STATIC, "    verify: true\n");
    let output = space.builds(&[]);
    output.counts(1, 0, 0);
    assert_eq!(output.named("step_started", "step"), ["build", "compare", "install", "prepare", "rebuild"]);
    assert!(space.log("app").contains("built twice, the same: bin/app"));
    // Without it, the same steps have the same keys.
    let key = |space: &Space, step: &str| {
        let shown = space.json(&["show", "app", "--json"]);
        let steps = shown["steps"].as_array().unwrap().iter();
        steps.filter(|s| s["name"] == step).map(|s| s["key"].as_str().unwrap().to_owned()).next().unwrap()
    };
    let keys: Vec<String> = ["prepare", "build", "install"].map(|step| key(&space, step)).into();
    space.edit_yaml("verify: true", "verify: false");
    space.builds(&[]).counts(0, 1, 0);
    assert_eq!(keys, ["prepare", "build", "install"].map(|step| key(&space, step)));
    space.edit_yaml("verify: false", "verify: true");
    space.builds(&[]).counts(0, 1, 0);

    // A clock in it: the program, the section, both texts, the reason.
    space.edit_yaml("cc $CFLAGS", "cc $CFLAGS -DWHEN=\"\\\"built `date +%s.%N`\\\"\"");
    space.edit("app/main.c", "__FILE__", "WHEN");
    let output = space.build(&[]);
    assert_eq!(output.code, Some(1), "{output}");
    let failure = output.failure("app");
    assert_eq!(failure["step"], "compare", "{output}");
    let message = failure["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "bin/app is not reproducible: two builds of the same source differ at section .rodata, offset 0x"
        ),
        "{message}"
    );
    assert!(message.contains("\nfirst:  \"built ") && message.contains("\nsecond: \"built "), "{message}");
    assert!(help(&output).contains("SOURCE_DATE_EPOCH"), "{output}");
    assert!(!output.started().is_empty() && !space.has("dist/app.tar.new"));
    // SOURCE_DATE_EPOCH in place of the clock.
    space.edit_yaml("`date +%s.%N`", "$SOURCE_DATE_EPOCH");
    space.builds(&[]).counts(1, 0, 0);
}

#[test]
fn cargo_is_run_twice_too_and_an_order_that_is_not_fixed_is_found() {
    let space = cargo(
        "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\nfn main() { println!(\"{}\", NAMES.join(\" \")); }\n",
        ", verify: true",
    );
    let build = |order: &str| {
        format!(
            "use std::collections::{order};\nfn main() {{\n    let names: {order}<String, u8> = (0..200).map(|n| (format!(\"name{{n}}\"), 0)).collect();\n    \
             let out = std::env::var(\"OUT_DIR\").unwrap();\n    let all: Vec<&String> = names.keys().collect();\n    \
             std::fs::write(format!(\"{{out}}/made.rs\"), format!(\"const NAMES: [&str; {{}}] = {{all:?}};\", all.len())).unwrap();\n}}\n"
        )
    };
    space.write("app/build.rs", build("BTreeMap"));
    let output = space.builds(&[]);
    assert_eq!(output.named("step_started", "step").iter().filter(|s| **s == "rebuild").count(), 1);
    space.write("app/build.rs", build("HashMap"));
    let output = space.build(&[]);
    assert_eq!(output.code, Some(1), "{output}");
    assert_eq!(output.failure("app")["step"], "compare", "{output}");
    assert!(help(&output).contains("HashMap"), "{output}");
}

#[test]
fn compilers_that_are_missing_are_named() {
    // As the cc crate says it.
    let space = cargo("fn main() {}\n", "");
    space.write(
        "app/build.rs",
        "fn main() {\n    eprintln!(\"error occurred in cc-rs: failed to find tool \\\"musl-g++\\\": No such file or directory (os error 2)\");\n    \
         std::process::exit(1);\n}\n",
    );
    let output = space.build(&[]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("musl-g++: command not found; add it to tools: [musl-g++]");
    // And then, that this host does not have it.
    space.edit_yaml("install:", "tools: [no-such-compiler], install:");
    let output = space.build(&[]);
    assert_eq!(output.code, Some(3), "{output}");
    output.says("no-such-compiler: not found").says("apt-file search bin/no-such-compiler");
}
