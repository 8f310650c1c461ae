//! Test images without a registry: an archive for `docker load`, the same bytes for every node.
//!
//! `busybox:latest` is Debian's static busybox with all its applets; `skep-test:latest` is the same
//! with skep-testbox, serving on port 80.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{command, target_dir};

const BUSYBOX: &str = "/bin/busybox";

/// Path of the archive, made anew when busybox or `testbox` changed.
pub fn archive(testbox: &Path) -> Result<PathBuf> {
    if !Path::new(BUSYBOX).exists() {
        bail!("{BUSYBOX} is missing: run `cargo xtask setup` (package busybox-static)");
    }
    let directory = target_dir().join("images");
    let archive = directory.join("images.tar");
    if [Path::new(BUSYBOX), testbox]
        .iter()
        .all(|source| is_newer(&archive, source))
    {
        return Ok(archive);
    }
    // Made aside and renamed, so that runs side by side never load half an archive.
    let work = directory.join(format!("make-{}", std::process::id()));
    let result = make(&work, testbox).and_then(|()| {
        fs::rename(work.join("images.tar"), &archive).with_context(|| format!("put {}", archive.display()))
    });
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    result.map(|()| archive)
}

fn is_newer(made: &Path, source: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    matches!((modified(made), modified(source)), (Some(made), Some(source)) if made > source)
}

fn make(work: &Path, testbox: &Path) -> Result<()> {
    let base = work.join("base");
    base_files(&base)?;
    let addition = work.join("addition/bin");
    fs::create_dir_all(&addition)?;
    fs::copy(testbox, addition.join("skep-testbox"))?;
    let out = work.join("out");
    let base_layer = layer(&base, &out, "base.tar")?;
    let test_layer = layer(&work.join("addition"), &out, "test.tar")?;
    let images = [
        image(
            &out,
            "busybox:latest",
            &[("base.tar", &base_layer)],
            json!({"Cmd": ["sh"]}),
        )?,
        image(
            &out,
            "skep-test:latest",
            &[("base.tar", &base_layer), ("test.tar", &test_layer)],
            json!({"Cmd": ["skep-testbox", "serve"], "ExposedPorts": {"80/tcp": {}, "80/udp": {}}}),
        )?,
    ];
    fs::write(out.join("manifest.json"), serde_json::to_vec(&images)?)?;
    tar(&out, &work.join("images.tar"))
}

fn base_files(root: &Path) -> Result<()> {
    for directory in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "var/www"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(BUSYBOX, root.join("bin/busybox"))?;
    let applets = command::run(Command::new(BUSYBOX).arg("--list"), Duration::from_secs(10))?.ok()?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("applet {applet}"))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// A layer and its digest; equal files give equal bytes.
fn layer(root: &Path, out: &Path, name: &str) -> Result<String> {
    fs::create_dir_all(out)?;
    let path = out.join(name);
    tar(root, &path)?;
    digest(&path)
}

fn tar(root: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "-cf",
    ]);
    command::run(
        command.arg(archive).arg("-C").arg(root).arg("."),
        Duration::from_secs(60),
    )?
    .ok()?;
    Ok(())
}

fn digest(path: &Path) -> Result<String> {
    let output = command::run(Command::new("sha256sum").arg(path), Duration::from_secs(60))?.ok()?;
    Ok(output
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?
        .to_string())
}

/// Writes the image's configuration; returns its line of the archive's manifest.
fn image(
    out: &Path,
    name: &str,
    layers: &[(&str, &String)],
    mut config: serde_json::Value,
) -> Result<serde_json::Value> {
    config["Env"] = json!(["PATH=/bin"]);
    let text = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|(_, digest)| format!("sha256:{digest}")).collect::<Vec<_>>(),
        },
    }))?;
    let path = out.join("config.json");
    fs::write(&path, text)?;
    let named = format!("{}.json", digest(&path)?);
    fs::rename(&path, out.join(&named))?;
    let files: Vec<&str> = layers.iter().map(|(file, _)| *file).collect();
    Ok(json!({"Config": named, "RepoTags": [name], "Layers": files}))
}
