//! Measures the operator against real servers: `e2e/bench` builds what this needs and starts it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use e2e::bench::report::Section;
use e2e::bench::world::World;
use e2e::bench::{Scale, agent, files, objects, records, saving};
use e2e::tools;

const USAGE: &str = "bench [--quick] [--write] [agent|objects|files|records|saving]...";
const SECTIONS: [&str; 5] = ["agent", "objects", "files", "records", "saving"];

#[tokio::main]
async fn main() -> ExitCode {
    let measured = tokio::select! {
        measured = run() => measured,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, path] = &words[..]
        && [saving::INSPECT, saving::VERIFY].contains(&verb.as_str())
    {
        println!("{}", saving::inspect(Path::new(path), verb == saving::VERIFY)?);
        return Ok(());
    }
    let (mut scale, mut write, mut sections) = (Scale::FULL, false, Vec::new());
    for word in &words {
        match word.as_str() {
            "--quick" => scale = Scale::QUICK,
            "--write" => write = true,
            section if SECTIONS.contains(&section) => sections.push(section),
            other => bail!("{other} is none of these: {USAGE}"),
        }
    }
    let wanted = |section| sections.is_empty() || sections.contains(&section);
    let done = |section: Section| {
        println!("\n{}", section.text());
        if write { section.write(&tools::repository("docs/performance.md")) } else { Ok(()) }
    };
    if sections != ["saving"] {
        let world = World::start(scale).await?;
        if wanted("agent") {
            done(agent::measure(&world).await?)?;
        }
        if wanted("objects") {
            done(objects::measure(&world).await?)?;
        }
        if wanted("files") {
            done(files::measure(&world).await?)?;
        }
        if wanted("records") {
            world.delete_all().await?;
            done(records::measure(&world).await?)?;
        }
    }
    if wanted("saving") {
        done(Box::pin(saving::measure(scale)).await?)?;
    }
    Ok(())
}
