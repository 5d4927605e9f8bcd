use std::io::Write as _;

use clap::Args;
use clap_complete::Shell;

use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  bash   iicp completion bash > ~/.local/share/bash-completion/completions/iicp
  zsh    iicp completion zsh > \"${fpath[1]}/_iicp\"
  fish   iicp completion fish > ~/.config/fish/completions/iicp.fish";

/// Write the completions of a shell
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completion {
    shell: Shell,
}

pub(crate) fn run(args: &Completion) -> Result<(), Failure> {
    // Made in memory: what makes it has no way to say that its reader is gone.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::cli::command(), "iicp", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}
