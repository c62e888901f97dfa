import pytest

from raydc.cli.main import main
from raydc.core.settings import SettingsError, build
from raydc.data import memory
from raydc.methods.dac import DAC
from raydc.methods.dcc import DCC
from raydc.methods.dsc import DSC
from raydc.methods.jule import JULE
from raydc.networks.encoder import Encoder
from raydc.networks.losses.pairwise import falling_thresholds
from raydc.networks.strided_autoencoder import Strided


def test_dcc_refuses_a_number_of_clusters_with_the_reason() -> None:
    with pytest.raises(SettingsError, match=r"method\.n_clusters: this method finds the number of clusters"):
        build(DCC.Config, {"n_clusters": 10}, at="method")
    assert build(DCC.Config, DCC.Config().model_dump(), at="method").n_clusters == 0, "what it writes, it reads"


@pytest.mark.parametrize(
    ("method", "fits", "need"), [(DSC(DSC.Config(), (4,)), 4000, "64.0"), (JULE(JULE.Config(), (4,)), 250_000, "64.0")]
)
def test_rows_beyond_memory_are_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch, method: DSC | JULE, fits: int, need: str
) -> None:
    free = 64 * 4000**2 if isinstance(method, DSC) else 4000 * 250_000
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    method.check_memory(fits)
    many = 31_623 if isinstance(method, DSC) else 16_000_000
    with pytest.raises(
        MemoryError, match=rf"{many} rows .* {need} GB.* 1\.0 GB are free: at most {fits} rows fit; train on"
    ):
        method.check_memory(many)


def test_dacs_thresholds_meet_at_the_end() -> None:
    given = DAC.Config()
    assert falling_thresholds(given.upper, given.lower, 0.0) == pytest.approx((0.95, 0.455))
    upper, lower = falling_thresholds(given.upper, given.lower, 1.0)
    assert upper == pytest.approx(lower) == pytest.approx(0.5)


@pytest.mark.parametrize(("side", "features", "stages"), [(28, 3200, 2), (16, 1800, 1), (128, 1250, 4), (8, 3200, 1)])
def test_encoder_has_jules_sizes(side: int, features: int, stages: int) -> None:
    network = Encoder().build((1, side, side))
    assert network.code.in_features == features and len(network.convs) == stages  # type: ignore[union-attr, arg-type]


def test_strided_stages_need_an_odd_kernel() -> None:
    with pytest.raises(ValueError, match=r"method\.network\.kernel: expected an odd size.*got 4"):
        Strided(family="conv", kernel=4).build((1, 8, 8))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("edit --model none --drop 1", "expected --register NAME, --out DIR, or both"),
        ("sample --model none --data digits --out {out} --near-duplicates --n 5", "--n: expected none with"),
        ("sample --model none --data digits --out {out} --balanced --n 0", "--n: expected 1 row or more, got 0"),
        ("assign --model none --data digits --out {out} --level 0", "level: expected 1 cluster or more, got 0"),
        ("assign --model none --data digits --out {out} --outliers 5", "outliers: expected a share of the training"),
        ("assign --model none --data digits --out {out} --workers -1", "--workers: expected 0"),
        ("edit --model none --out {out} --decisions {empty}", "edits: expected at least 1, got 0"),
        ("edit --model none --out {out} --decisions {one}", "edits.0.merge.clusters: expected at least 2, got 1"),
        ("new-method class --out {out}", "'class' is a keyword of Python"),
        ("new-method none --out {out}", "'none' is a keyword of Python"),
    ],
)
def test_options_that_cannot_be_meant_are_usage_errors_before_any_work(tmp_path, capsys, command, said):
    (tmp_path / "empty.json").write_text('{"edits": []}')
    (tmp_path / "one.json").write_text('{"edits": [{"kind": "merge", "clusters": [1]}]}')
    places = {"out": tmp_path / "out", "empty": tmp_path / "empty.json", "one": tmp_path / "one.json"}
    assert main(command.format(**places).split()) == 64
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
