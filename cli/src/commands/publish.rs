//! `mosbuild publish`: builds what config/publish.yaml names, uploads it, and brings the index up to date.

use clap::{Args, ValueEnum};
use mosbuild_engine::build::{Forecast, fill_name, predict};
use mosbuild_engine::load::Loaded;
use mosbuild_engine::lockfile::{Missing, Pins};
use mosbuild_engine::run_record::{RunHead, Runs};
use mosbuild_engine::s3::Bucket;
use mosbuild_rules::sbom;

use super::build::{RunArgs, execute};
use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::format;
use crate::interrupt;
use crate::made::Made;
use crate::publish::config::{BillForm, Config, Item};
use crate::publish::{self, File, There, Told, blocks, index, provenance};
use crate::session::{Access, Grounds, Session};
use crate::ui::Ui;

/// Arguments of `publish`.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// What to publish [default: $UPLOAD_KERNEL and $UPLOAD_MANIFESTS where either is set, else all that there is]
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    what: Vec<What>,
    /// Say what would be built, uploaded and refused; build and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// What may be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Kernels, with their SHA-256, bill of materials and provenance; kernels.txt and kernels.json
    Kernel,
    /// Flists of modules and firmware
    Manifests,
}

/// Builds and publishes, or says what that would do.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &PublishArgs) -> Result<u8, Failure> {
    let access = if args.dry_run { Access::Read } else { Access::Write };
    let grounds = Grounds::open(ui, global, &args.run.store, None, access)?;
    let loaded = grounds.site.load()?;
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let config = Config::read(&loaded, set("KERNEL_SUBPATH"))?;
    let items = wanted(&config, &args.what, &set)?;
    let bucket = Bucket::open(&config.s3)?;
    let mut targets: Vec<u32> = items.iter().map(|(_, item)| item.target).collect();
    targets.dedup();
    let names: Vec<String> = targets.iter().map(|t| loaded.targets[*t as usize].name.clone()).collect();
    let options = args.run.options(&grounds, global, words, names);
    let told = Told::new(ui);

    if args.dry_run {
        let mut session = Session::on(grounds)?;
        let predicted = predict(&mut session.workspace, &session.grounds.store, &options)?;
        let waits: Vec<&str> = predicted
            .targets
            .iter()
            .filter(|(_, forecast)| *forecast != Forecast::Hit)
            .map(|(name, _)| name.as_str())
            .collect();
        let folders = |item: &(What, Item)| folder(&config, item.0);
        if !waits.is_empty() {
            ui.out(&format!("would build {}\n", format::few(&waits)))?;
            for item in &items {
                ui.out(&format!("would publish {}\n", index::key(folders(item), &item.1.name)))?;
            }
            return Ok(0);
        }
        let made = Made::of(&session.grounds, &loaded, &targets, &predicted.steps)?;
        return preview(
            ui,
            &Publication {
                grounds: &session.grounds,
                loaded: &loaded,
                config: &config,
                bucket: &bucket,
                made,
                told,
            },
            &items,
        );
    }

    let report = execute(ui, &grounds, &options, &args.run)?;
    if report.head.exit != 0 {
        return Ok(report.head.exit);
    }
    // An upload may be left at any point: the next one goes on from there.
    interrupt::take_back();
    let steps = Runs::of(&grounds.site.dirs().state).steps(&report.head).unwrap_or_default();
    let made = Made::of(&grounds, &loaded, &targets, &steps)?;
    let publication =
        Publication { grounds: &grounds, loaded: &loaded, config: &config, bucket: &bucket, made, told };
    upload(ui, global, &publication, &items, &report.head)
}

/// The items that are asked for: by `--what`, else by the old pipeline's variables, else all.
fn wanted(
    config: &Config,
    what: &[What],
    set: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(What, Item)>, Failure> {
    let on = |name: &str| set(name).map(|value| matches!(value.as_str(), "true" | "1" | "yes"));
    let (kernel, manifests) = (on("UPLOAD_KERNEL"), on("UPLOAD_MANIFESTS"));
    let asked = |one: What, variable: Option<bool>| match (what.is_empty(), kernel.or(manifests)) {
        (false, _) => what.contains(&one),
        (true, Some(_)) => variable == Some(true),
        (true, None) => true,
    };
    let named = !what.is_empty() || kernel.or(manifests).is_some();
    let mut all = Vec::new();
    for (one, variable, items) in
        [(What::Kernel, kernel, &config.kernels), (What::Manifests, manifests, &config.manifests)]
    {
        if !asked(one, variable) {
            continue;
        }
        if items.is_empty() && named {
            return Err(match one {
                What::Kernel => Failure::usage("no kernel is there to be published").help(
                    "name one in `dist` of mosbuild.yaml, \"vmlinuz-{linux.version}-{my_init.rev}.efi\": kernel, or in `kernels` of config/publish.yaml",
                ),
                What::Manifests => Failure::usage("no flist is there to be published")
                    .help("a target of rule `flist` is one, and what `manifests` of config/publish.yaml names"),
            });
        }
        all.extend(items.iter().map(|item| (one, item.clone())));
    }
    match all.is_empty() {
        false => Ok(all),
        true => Err(Failure::usage("nothing is asked for, or there, to be published").help(
            "`--what kernel` and `--what manifests` say what; docs/publish.md tells what is published",
        )),
    }
}

fn folder(config: &Config, what: What) -> &str {
    match what {
        What::Kernel => &config.kernel_folder,
        What::Manifests => &config.manifest_folder,
    }
}

/// All that publishing stands on.
struct Publication<'a> {
    grounds: &'a Grounds,
    loaded: &'a Loaded,
    config: &'a Config,
    bucket: &'a Bucket,
    made: Made<'a>,
    told: Told<'a>,
}

/// A file that was built, with its name.
struct Built {
    name: String,
    path: std::path::PathBuf,
    size: u64,
    sha256: String,
    key: Option<String>,
}

impl Publication<'_> {
    fn built(&self, item: &Item) -> Result<Built, Failure> {
        let facts = |target: u32| self.made.facts(target);
        let name = fill_name(&item.name, self.loaded, &facts).map_err(Failure::usage)?;
        let target = &self.loaded.targets[item.target as usize].name;
        let again = format!("`mosbuild build {target}` makes it again");
        let lost = || Failure::new(1, format!("the output of {target} is gone from the store")).help(&again);
        let (digest, key) = self.made.output(item.target, item.output.as_deref()).ok_or_else(lost)?;
        let path =
            self.grounds.store.blob_path(&digest).map_err(|e| Failure::new(1, e.to_string()).help(&again))?;
        let (size, sha256) = publish::digest(&path)?;
        Ok(Built { name, path, size, sha256, key: key.map(|key| key.hex()) })
    }

    /// What a bucket lacks of the blocks of an flist; `None` if they belong to no bucket.
    fn lacking(&self, item: &Item) -> Result<Option<blocks::Lacking>, Failure> {
        let Some((url, files)) = self.made.depot(item.target, item.output.as_deref()) else {
            return Ok(None);
        };
        let target = &self.loaded.targets[item.target as usize].name;
        let tree = self.grounds.store.get_tree(&files).map_err(|e| {
            Failure::new(1, e.to_string())
                .help(format!("`mosbuild build --force {target} {target}` makes it again"))
        })?;
        blocks::lacking(self.config, &url, &tree, &self.told)
    }

    fn file<'f>(&'f self, what: What, built: &'f Built) -> File<'f> {
        File {
            folder: folder(self.config, what),
            name: &built.name,
            path: &built.path,
            size: built.size,
            sha256: &built.sha256,
            beside: Vec::new(),
        }
    }
}

/// Says what is there, what would be sent, and what would be refused.
fn preview(ui: &Ui, publication: &Publication<'_>, items: &[(What, Item)]) -> Result<u8, Failure> {
    let Publication { bucket, config, told, .. } = publication;
    let (mut refused, mut kernels) = (false, Vec::new());
    for (what, item) in items {
        let built = publication.built(item)?;
        let file = publication.file(*what, &built);
        let key = index::key(file.folder, file.name);
        if let Some(lacking) = publication.lacking(item)? {
            let (count, bytes) = lacking.count();
            let (blocks, there) = (format::count(count, "block"), lacking.there);
            let place = lacking.place();
            ui.out(&format!(
                "would send    {blocks} to {place}  {}; {there} are there\n",
                format::size(bytes)
            ))?;
        }
        match publish::there(bucket, &file, told)? {
            There::Nothing => ui.out(&format!("would publish {key}  {}\n", format::size(built.size)))?,
            There::Same => ui.out(&format!("published     {key}\n"))?,
            There::Other(size, sha256) => {
                refused = true;
                if let Failure::Errors { errors, .. } = publish::taken(bucket, &file, size, sha256.as_deref())
                {
                    errors.iter().for_each(|(message, help)| ui.error(message, help));
                }
                continue;
            }
        }
        if *what == What::Kernel {
            kernels.push(built.name);
        }
    }
    if items.iter().any(|(what, _)| *what == What::Kernel) {
        let (count, fits) = index::preview(bucket, &config.kernel_folder, &kernels, told)?;
        let key = index::key(&config.kernel_folder, index::JSON);
        let line = if fits { format!("up to date    {key}") } else { format!("would update  {key}") };
        ui.out(&format!("{line}, {}  {}\n", index::TEXT, format::count(count, "kernel")))?;
    }
    Ok(u8::from(refused))
}

/// Uploads all, then brings the index up to date.
fn upload(
    ui: &Ui,
    global: &GlobalArgs,
    publication: &Publication<'_>,
    items: &[(What, Item)],
    head: &RunHead,
) -> Result<u8, Failure> {
    let Publication { grounds, loaded, config, bucket, made, told } = publication;
    let pins = Pins::read(&loaded.root, Missing::Locked).map_err(|e| Failure::new(e.exit, e.message))?;
    let dirs = grounds.site.dirs();
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut statements = Vec::new();
    let mut published = Vec::new();
    for (what, item) in items {
        let built = publication.built(item)?;
        let target = &loaded.targets[item.target as usize].name;
        // First its blocks: an flist that can be read names nothing that is not there.
        if let Some(lacking) = publication.lacking(item)? {
            blocks::send(&lacking, &grounds.store, target, told)?;
            let (count, bytes) = lacking.count();
            let (blocks, there) = (format::count(count, "block"), lacking.there);
            ui.note(&format!(
                "sent     {blocks} to {}  {}; {there} were there",
                lacking.place(),
                format::size(bytes)
            ));
        }
        let bill = made.bill(item.target, &pins)?;
        let subject =
            provenance::Subject { name: &built.name, sha256: &built.sha256, target, key: built.key.clone() };
        let statement = provenance::statement(&subject, &bill, &pins, head, global, &env);
        let statement = format!("{statement:#}\n");
        let mut file = publication.file(*what, &built);
        if *what == What::Kernel {
            for form in &config.sbom {
                file.beside.push(match form {
                    BillForm::Spdx => (".spdx.json", "application/spdx+json", sbom::spdx(&bill)),
                    BillForm::Cyclonedx => {
                        (".cdx.json", "application/vnd.cyclonedx+json", sbom::cyclonedx(&bill))
                    }
                });
            }
        }
        file.beside.push((PROVENANCE, "application/vnd.in-toto+json", statement.clone()));
        let key = index::key(file.folder, file.name);
        let sent = publish::publish(bucket, &file, &dirs.state.join("uploads"), told)?;
        let (word, size) = (if sent { "sent    " } else { "there   " }, format::size(built.size));
        ui.note(&format!("{word} {key}  {size}"));
        published.push(format!("s3://{}/{key}\n", config.s3.bucket));
        statements.push((format!("{}{PROVENANCE}", built.name), statement));
    }
    for path in publish::place(&dirs.dist, &dirs.state, &statements)? {
        let path = path.strip_prefix(&dirs.root).unwrap_or(&path);
        ui.note(&format!("placed   {}", path.display()));
    }
    if items.iter().any(|(what, _)| *what == What::Kernel) {
        let now = || sbom::rfc3339(format::now());
        let (count, written) = index::update(bucket, &config.kernel_folder, &now, told)?;
        let word = if written { "updated " } else { "there   " };
        let key = index::key(&config.kernel_folder, index::JSON);
        ui.note(&format!("{word} {key}, {}  {}", index::TEXT, format::count(count, "kernel")));
    }
    ui.out(&published.concat())?;
    Ok(0)
}

/// What a statement about a file has behind the file's name.
const PROVENANCE: &str = ".provenance.json";
