//! The special tokens that have a name.

use crate::tokenizer::BertTokenizer;

/// The special tokens that have a name, and their ids.
macro_rules! special_tokens {
    ($($(#[$doc:meta])* $token:ident, $id:ident;)*) => {
        impl BertTokenizer {
            $(
                $(#[$doc])*
                pub fn $token(&self) -> Option<&str> {
                    self.special_token(stringify!($token))
                }

                #[doc = concat!("The id of [`BertTokenizer::", stringify!($token), "`].")]
                pub fn $id(&self) -> Option<u32> {
                    self.token_to_id(self.$token()?)
                }
            )*
        }
    };
}

special_tokens! {
    /// The token that begins a sequence, usually `[CLS]`. `None` if the tokenizer has none.
    cls_token, cls_token_id;
    /// The token that ends a text, usually `[SEP]`. `None` if the tokenizer has none.
    sep_token, sep_token_id;
    /// The token in place of a masked word, usually `[MASK]`. `None` if the tokenizer has none.
    mask_token, mask_token_id;
    /// The token for padding, usually `[PAD]`. `None` if the tokenizer has none.
    pad_token, pad_token_id;
    /// The token in place of an unknown word, usually `[UNK]`. `None` if the tokenizer has none.
    unk_token, unk_token_id;
    /// The token that begins a generated text. `None` if the tokenizer has none.
    bos_token, bos_token_id;
    /// The token that ends a generated text. `None` if the tokenizer has none.
    eos_token, eos_token_id;
}
