//! The image that steps run in: found at the daemon, loaded from an archive, or pulled.
//!
//! Knows what daemons call images. Knows no step and no key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::{CreateImageOptions, ImportImageOptions};
use futures_util::{StreamExt, stream};

use super::daemon::{Daemon, soon};
use super::words::{self, Trouble};
use super::{Bring, ContainerOptions, archive};

/// Bytes that an archive is sent in.
const CHUNK: usize = 1 << 20;

/// An image that the daemon has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// `sha256:…`.
    pub id: String,
    /// As the configuration names it.
    pub name: String,
    /// Its PATH.
    pub path: String,
}

/// PATH in an image that sets none, as Docker and Podman have it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image that the options name. What is absent is brought in, if that is wanted.
pub(super) async fn find(
    docker: &Docker,
    daemon: &Daemon,
    options: &ContainerOptions,
    bring: Option<&Bring>,
) -> Result<Image, Trouble> {
    let (name, wanted) = match (&options.archive, &options.image) {
        (Some(path), image) => {
            let id = archive::read(path, image.as_deref())?.id;
            (path.display().to_string(), id)
        }
        (None, Some(image)) => (image.clone(), image.clone()),
        (None, None) => return Err(none_configured()),
    };
    let found = match (inspect(docker, &wanted).await?, bring) {
        (Some(found), _) => found,
        (None, None) => {
            let how = if options.archive.is_some() { "loads it" } else { "pulls it" };
            return Err(Trouble::new(format!("{} has no image {name}", daemon.name))
                .help(format!("a build {how}: `mosbuild build`")));
        }
        (None, Some(bring)) => {
            match &options.archive {
                Some(path) => load(docker, path, &name, bring).await?,
                None => pull(docker, daemon, &name, bring).await?,
            }
            let found = inspect(docker, &wanted).await?;
            found.ok_or_else(|| {
                Trouble::new(format!("{} has no image {wanted} after {name} was brought in", daemon.name))
            })?
        }
    };
    let arch = found.architecture.clone().unwrap_or_default();
    if !arch.is_empty() && !daemon.arch.is_empty() && arch != daemon.arch {
        return Err(Trouble::new(format!("{name} is an image for {arch}, and this machine is {}", daemon.arch))
            .help("name an image for this architecture; other architectures are built for by cross compilers (docs/cross.md)"));
    }
    let id = found.id.unwrap_or_default();
    let id = if id.contains(':') { id } else { format!("sha256:{id}") };
    let env = found.config.and_then(|config| config.env).unwrap_or_default();
    let path = env.iter().find_map(|line| line.strip_prefix("PATH=")).unwrap_or(PATH).to_owned();
    Ok(Image { id, name, path })
}

/// What is to be said where steps need a container, and no image is named.
pub(super) fn none_configured() -> Trouble {
    Trouble::new("no image is named for containers")
        .help("name one in mosbuild.yaml: `container: { image: NAME@sha256:… }` or `container: { archive: FILE.tar }`")
        .help("or for yourself: MOSBUILD_CONTAINER_IMAGE, or `container` in the user's settings (docs/containers.md)")
}

async fn inspect(docker: &Docker, name: &str) -> Result<Option<ImageInspect>, Trouble> {
    match soon(docker.inspect_image(name)).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(words::refusal(&format!("looking for the image {name}"), name, &error)),
    }
}

async fn load(docker: &Docker, path: &Path, name: &str, bring: &Bring) -> Result<(), Trouble> {
    let failed = |error: std::io::Error| Trouble::new(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let (progress, told, mut done) = (Arc::clone(bring), name.to_owned(), 0);
    let mut chunks = std::iter::from_fn(move || {
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk) {
            Ok(0) => None,
            Ok(count) => {
                chunk.truncate(count);
                done += count as u64;
                progress(&told, done, Some(total));
                Some(Ok(chunk.into()))
            }
            Err(error) => Some(Err(error)),
        }
    });
    let body = bollard::body_try_stream(stream::poll_fn(move |_| std::task::Poll::Ready(chunks.next())));
    let mut answer = std::pin::pin!(docker.import_image(ImportImageOptions::default(), body, None));
    while let Some(line) = answer.next().await {
        line.map_err(|error| words::refusal(&format!("loading {name}"), name, &error))?;
    }
    Ok(())
}

async fn pull(docker: &Docker, daemon: &Daemon, name: &str, bring: &Bring) -> Result<(), Trouble> {
    if name.starts_with("sha256:") {
        return Err(Trouble::new(format!("{} has no image {name}", daemon.name))
            .help("an id cannot be pulled: name the image with its registry, or give it as `archive`"));
    }
    let (image, tag) = split(name);
    let options =
        CreateImageOptions { from_image: Some(image.to_owned()), tag, ..CreateImageOptions::default() };
    let mut answer = std::pin::pin!(docker.create_image(Some(options), None, None));
    let mut layers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    while let Some(line) = answer.next().await {
        let line = line.map_err(|error| {
            words::refusal(&format!("pulling {name}"), name, &error)
                .help("where no registry can be reached, give the image as a file: `container: { archive: FILE.tar }`")
        })?;
        let (Some(layer), Some(detail)) = (line.id, line.progress_detail) else { continue };
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        if let (Some(done), Some(total)) = (number(detail.current), number(detail.total)) {
            layers.insert(layer, (done, total));
            let sum = layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
            bring(name, sum.0, Some(sum.1));
        }
    }
    Ok(())
}

/// Name and tag as the daemon wants them: without a tag it would pull all there are.
fn split(name: &str) -> (&str, Option<String>) {
    if name.contains('@') {
        return (name, None);
    }
    let from = name.rfind('/').map_or(0, |at| at + 1);
    match name[from..].rfind(':') {
        Some(at) => (&name[..from + at], Some(name[from + at + 1..].to_owned())),
        None => (name, Some("latest".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_is_pulled_and_never_all() {
        let tag = |name| split(name).1;
        assert_eq!(split("reg:5000/a/b:1"), ("reg:5000/a/b", Some("1".into())));
        assert_eq!(tag("reg:5000/a/b"), Some("latest".into()));
        assert_eq!(tag("builder"), Some("latest".into()));
        assert_eq!(split("a@sha256:00"), ("a@sha256:00", None));
    }
}
