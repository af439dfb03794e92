import pytest

from verl_ext.data.boxed import last_boxed


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{7}.", "7"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} and more}", r"\frac{1}{2}"),
        (r"\boxed{ x^{2^{3}} }", "x^{2^{3}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed {5}", "5"),
        (r"$\boxed 5$ is it", "5"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
    ],
)
def test_the_last_box_is_found(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the answer is 7",
        r"\boxed",
        r"\boxed{}",
        r"\boxed{ }",
        r"\boxed 5",
        r"\boxed{1} then \boxed{2",
        r"\boxed{a\}",
    ],
)
def test_no_box_an_open_one_or_an_empty_one_gives_none(text):
    assert last_boxed(text) is None
