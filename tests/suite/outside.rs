//! The README's library snippet in a crate of its own.

use std::process::Command;

use crate::support::*;

#[test]
#[ignore = "builds a second crate: run by scripts/check"]
fn the_readme_program_compiles_and_runs_in_a_crate_of_its_own() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let program = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let manifest = format!(
        "[package]\nname = \"outside\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         anyhow = \"1\"\ncandle-bert = {{ path = {:?} }}\n\n[profile.dev.package.\"*\"]\nopt-level = 3\ndebug = false\n",
        root().join("crates/bert")
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("src/main.rs"), program).unwrap();
    // The workspace's lock file and target folder, so that nothing is downloaded or built twice.
    std::fs::copy(root().join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    let mut command = Command::new(env!("CARGO"));
    // What cargo tells this test about itself would make build scripts run again.
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CARGO_") && name != "CARGO_HOME")
    {
        command.env_remove(name);
    }
    let output = command
        .args(["run", "--quiet", "--offline"])
        .current_dir(folder.path())
        .env("CARGO_TARGET_DIR", root().join("target"))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    assert!(out.contains("BaseModelOutputWithPoolingAndCrossAttentions"), "{out}");
    assert!(out.contains("last_hidden_state: [1, 8, 128] F32"), "{out}");
}
