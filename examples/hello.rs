//! The notebook: load a BERT, tokenize a text, run the model, look at the output.

use anyhow::{Context, Result};
use bert::{Error, *};
use clap::{Parser, ValueEnum};

/// Tokenizes texts, runs a BERT on them and prints the shapes of what comes out.
#[derive(Parser)]
struct Args {
    /// Hub id or folder [default: google-bert/bert-base-uncased, or the built-in checkpoint offline]
    #[arg(long)]
    model: Option<String>,
    /// A text; repeat it for a batch
    #[arg(long, default_value = "Hello, my dog is cute")]
    text: Vec<String>,
    /// The second text of a pair, for every --text
    #[arg(long)]
    text_pair: Option<String>,
    /// Where to compute [default: the fastest there is]
    #[arg(long)]
    device: Option<DeviceName>,
    /// What to compute in
    #[arg(long, default_value = "f32")]
    dtype: DTypeName,
    /// Print the hidden states too
    #[arg(long)]
    output_hidden_states: bool,
    /// Print the attention weights too
    #[arg(long)]
    output_attentions: bool,
}

#[derive(Clone, ValueEnum)]
enum DeviceName {
    Cpu,
    Cuda,
    Metal,
}

#[derive(Clone, ValueEnum)]
enum DTypeName {
    F32,
    F16,
    Bf16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = match args.device {
        None => best_device(),
        Some(DeviceName::Cpu) => Device::Cpu,
        Some(DeviceName::Cuda) => cuda_device()?,
        Some(DeviceName::Metal) => metal_device()?,
    };
    let dtype = match args.dtype {
        DTypeName::F32 => DType::F32,
        DTypeName::F16 => DType::F16,
        DTypeName::Bf16 => DType::BF16,
    };
    let load = LoadOptions::new().with_device(device.clone()).with_dtype(dtype);

    let (model, tokenizer, is_built_in) = load_named(args.model.as_deref(), &load)?;
    let encode = EncodeOptions::new().with_padding(Padding::Longest);
    let inputs = match &args.text_pair {
        Some(pair) => tokenizer.encode_batch(args.text.iter().map(|t| (&**t, &**pair)), &encode)?,
        None => tokenizer.encode_batch(&args.text, &encode)?,
    };
    for encoding in &inputs.encodings {
        println!("\ntokens: {:?}\nids:    {:?}", encoding.tokens, encoding.ids);
    }

    let mut options = ForwardOptions::new();
    if args.output_hidden_states {
        options = options.with_hidden_states(Layers::All);
    }
    if args.output_attentions {
        options = options.with_attentions(Layers::All);
    }
    let outputs = model.forward_with(&inputs.to_input(&device)?, &options)?;
    print!("\n{outputs}");
    if is_built_in {
        let fill_mask = FillMaskPipeline::from_pretrained(Checkpoint::built_in(), &load)?;
        let masks =
            fill_mask.run("My [MASK] is barking.", &FillMaskOptions::new().with_top_k(1))?;
        let FilledMask { token_str, score, .. } = &masks[0][0];
        println!("\nMy [MASK] is barking: {token_str} ({:.0} %)", 100. * score);
    }
    Ok(())
}

/// The named checkpoint; without a name bert-base-uncased, or the built-in one offline. Also whether it
/// is the built-in one.
fn load_named(
    name: Option<&str>,
    options: &LoadOptions,
) -> Result<(BertModel, BertTokenizer, bool)> {
    let named = Checkpoint::from_name(name.unwrap_or("google-bert/bert-base-uncased"))?;
    match load(&named, options) {
        Err(Error::HubUnreachable { reason, .. }) if name.is_none() => {
            println!("The hub cannot be reached ({reason}); running the built-in checkpoint.");
            let (model, tokenizer) = load(&Checkpoint::built_in(), options)?;
            Ok((model, tokenizer, true))
        }
        loaded => {
            let (model, tokenizer) = loaded.with_context(|| format!("cannot load {named}"))?;
            Ok((model, tokenizer, false))
        }
    }
}

fn load(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
) -> bert::Result<(BertModel, BertTokenizer)> {
    let (model, report) = AutoModel::from_pretrained_with_report(checkpoint, options)?;
    let tokenizer = AutoTokenizer::from_pretrained(checkpoint)?;
    println!("{checkpoint}\n{report}");
    Ok((model, tokenizer))
}
