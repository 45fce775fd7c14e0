//! Parses arithmetic into a tree of boxes, and computes it.

use std::hint::black_box;

use nom::branch::alt;
use nom::character::complete::{char, digit1, one_of, space0};
use nom::combinator::map_res;
use nom::multi::many0;
use nom::sequence::{delimited, pair};
use nom::{IResult, Parser};

enum Expression {
    Number(i64),
    Binary(Box<Expression>, char, Box<Expression>),
}

impl Expression {
    fn value(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            Self::Binary(left, '+', right) => left.value().wrapping_add(right.value()),
            Self::Binary(left, '-', right) => left.value().wrapping_sub(right.value()),
            Self::Binary(left, _, right) => left.value().wrapping_mul(right.value()),
        }
    }
}

fn atom(input: &str) -> IResult<&str, Expression> {
    let number = map_res(digit1, |digits: &str| digits.parse().map(Expression::Number));
    let nested = delimited(char('('), sum, char(')'));
    delimited(space0, alt((number, nested)), space0).parse(input)
}

fn chain<'a>(
    operand: fn(&'a str) -> IResult<&'a str, Expression>,
    operators: &'static str,
    input: &'a str,
) -> IResult<&'a str, Expression> {
    let (input, first) = operand(input)?;
    let (input, rest) = many0(pair(one_of(operators), operand)).parse(input)?;
    let fold = |left, (operator, right)| Expression::Binary(Box::new(left), operator, Box::new(right));
    Ok((input, rest.into_iter().fold(first, fold)))
}

fn product(input: &str) -> IResult<&str, Expression> {
    chain(atom, "*", input)
}

fn sum(input: &str) -> IResult<&str, Expression> {
    chain(product, "+-", input)
}

pub fn run() {
    let text: String = (0..4000)
        .map(|i| format!("({i} + 3 * ({} - {}) * 2) - ", i % 17, i % 5))
        .chain(["7".to_owned()])
        .collect();
    for _ in 0..60 {
        let (rest, tree) = sum(&text).unwrap();
        assert!(rest.is_empty());
        black_box(tree.value());
    }
}
