# SPDX-License-Identifier: Apache-2.0
"""Evidence sequences and the states they lead to, and every cell of the health machine (DESIGN section 7)."""

from __future__ import annotations

import itertools

import pytest
from health_cases import DEFAULT, LETTERS, STATES, SYMBOL, Settings, states, walk

from ubisip.health.machine import SUPPRESS, TABLE, Damping, Health, State, Verdict, advance

# Evidence a second apart, and the state after each; fall 2, rise 3.
DEFAULT_ROWS = """
p U            w G            f F            h F            s U            l F            r F            b U
i ?            ii ??          ip ?U         pp UU          pppp UUUU      ff FD          hh FD          ll FD
rr FD          fl FD          lf FD          rh FD          fr FD          lr FD          hl FD          fh FD
pf UF          pff UFD        pfff UFDD      pl UF          pll UFD        prr UFD        plf UFD        pfr UFD
pfp UFU        pfpf UFUF      pfpff UFUFD    pfs UFU        pfsf UFUF      pfsff UFUFD    plsl UFUF      plslsl UFUFUF
plpl UFUF      prsr UFUF      prsrr UFUFD    pfb UFU        pfbf UFUF      pfi UFF        pfif UFFD      pfiif UFFFD
pi UU          pif UUF        piff UUFD      fi FF          fif FFD        fp FU          fs FU          fw FG
fb FU          fpff FUFD      fsff FUFD      wf GF          wff GFD        wp GG          wpp GGG        wppp GGGU
wpwppp GGGGGU  wpfp GGFU      ws GG          wsss GGGG      wb GG          wi GG          wl GF          wll GFD
wrr GFD        wpppf GGGUF    pw UG          pwppp UGGGU    pwff UGFD      pfw UFG        pfwppp UFGGGU  pfwf UFGF
sf UF          sff UFD        sp UU          sw UG          ss UU          sl UF          sll UFD        bf UF
bff UFD        bp UU          bs UU          bb UU          ffp FDR        ffpp FDRR      ffppp FDRRU    ffpppp FDRRUU
fff FDD        ffff FDDD      fffp FDDR      fffppp FDDRRU  ffpf FDRD      ffpfp FDRDR    ffppf FDRRD
ffppfppp FDRRDRRU
ffpfppp FDRDRRU             ffpi FDRR      ffpippp FDRRRUU             ffpipp FDRRRU
ffi FDD        ffippp FDDRRU
ffs FDD        ffsss FDDDD    ffsppp FDDRRU  ffps FDRR      ffpspp FDRRRU  ffpsss FDRRRR  ffl FDD        ffr FDD
ffpl FDRR      ffplpp FDRRRU  ffpr FDRR      ffprpp FDRRRU  ffplpr FDRRRR  ffb FDD        ffbppp FDDRRU  ffpb FDRR
ffpbpp FDRRRU  ffw FDR        ffwww FDRRG    ffpww FDRRG    ffwwp FDRRU    ffppw FDRRG    ffwf FDRD      ffwpp FDRRU
rrppp FDRRU    llppp FDRRU    hhppp FDRRU    rrsss FDDDD    llsppp FDDRRU  pppff UUUFD    pppfp UUUFU    pppfpf UUUFUF
pffppp UFDRRU  pffpppf UFDRRUF               pffpppp UFDRRUU               pffpppw UFDRRUG              pffppps UFDRRUU
pffpppfp UFDRRUFU             pffpppfs UFDRRUFU             pffpppls UFDRRUFU             pffpppi UFDRRUU
"""

# The same with other thresholds: fall, rise, then evidence and states.
THRESHOLD_ROWS = """
1 1 p U        1 1 f D        1 1 l D        1 1 r D        1 1 fp DU      1 1 pf UD      1 1 pfp UDU    1 1 fw DG
1 1 w G        1 1 wp GU      1 1 wf GD      1 1 ws GG      1 1 pfsp UDDU  1 1 fip DDU    1 1 fl DD      1 1 fb DD
1 2 pfpp UDRU  1 2 pfpfpp UDRDRU             1 2 pfpw UDRG                 1 2 pfwp UDRU  1 2 wpp GGU    1 2 pfipp UDDRU
3 1 pfff UFFD  3 1 pffp UFFU  3 1 pffs UFFU  3 1 pffpff UFFUFF             3 1 pfffp UFFDU               3 1 plll UFFD
3 1 prlf UFFD  3 1 pffiif UFFFFD             3 1 pffw UFFG                 3 1 wpffp GUFFU               3 1 pffb UFFU
3 2 pfffpp UFFDRU              3 2 pfffpfpp UFFDRDRU        3 2 pffpfff UFFUFFD           3 2 ffsfff FFUFFD
5 5 pffff UFFFF                5 5 pfffff UFFFFD            5 5 pfffffpppp UFFFFDRRRR     5 5 pfffffppppp UFFFFDRRRRU
5 5 rrrrr FFFFD                5 5 rrrrs FFFFU              5 5 lllllppppf FFFFDRRRRD     5 5 wpppp GGGGG
"""

# Flapping, fall 1, rise 1, evidence a second apart: the third crossing holds it back.
HELD_ROWS = """
pfp UDU        pfpf UDUH      pfpfp UDUHH    pfpfpppp UDUHHHHH              pfpffff UDUHHHH               pfpfw UDUHH
pfpfs UDUHH    pfpfl UDUHH    pfpfr UDUHH    pfpfb UDUHH    pfpfi UDUHH    fpf DUH        fpfp DUHH      flpl DDUH
fwf DGH        fwfp DGHH      fwfw DGHH      pfppfp UDUUHH  prpr UDUH      plpl UDUH      pflpb UDDUU    pfpsf UDUUH
"""


def rows(text: str, width: int) -> list[tuple[str, ...]]:
    words = text.split()
    assert len(words) % width == 0
    return [tuple(words[i : i + width]) for i in range(0, len(words), width)]


@pytest.mark.parametrize(("evidence", "expected"), rows(DEFAULT_ROWS, 2))
def test_evidence_leads_to_states(evidence: str, expected: str) -> None:
    assert states(walk(evidence)) == expected


@pytest.mark.parametrize(("fall", "rise", "evidence", "expected"), rows(THRESHOLD_ROWS, 4))
def test_thresholds_are_the_settings(fall: str, rise: str, evidence: str, expected: str) -> None:
    assert states(walk(evidence, Settings(fall=int(fall), rise=int(rise)))) == expected


@pytest.mark.parametrize(("evidence", "expected"), rows(HELD_ROWS, 2))
def test_flapping_is_held(evidence: str, expected: str) -> None:
    assert states(walk(evidence, Settings(fall=1, rise=1))) == expected


# The table once more, as the figure in docs/health.md has it. S and R: penalty at SUPPRESS, at REUSE.
BELOW = """
   p w f s l b i S R
?  U G F U F U ? ? ?
U  U G F U F U U H U
G  G G F G F G G H G
F  U G F U F U F F F
D  R R D D D D D H D
R  R R D R R R R R R
H  H H H H H H H H D
"""
REACHED = """
   p w f s l b i S R
?  U G D U D U ? ? ?
U  U G D U D U U H U
G  U G D G D G G H G
F  U G D U D U F F F
D  U G D D D D D H D
R  U G D R R R R R R
H  H H H H H H H H D
"""
DAMPING = {"S": Damping.SUPPRESS, "R": Damping.REUSE}


def cells(figure: str) -> list[tuple[str, str, str]]:
    head, *lines = figure.strip().splitlines()
    events = head.split()
    return [(line[0], event, cell) for line in lines for event, cell in zip(events, line.split()[1:], strict=True)]


def test_the_table_has_every_cell_and_no_other() -> None:
    assert set(TABLE) == set(itertools.product(State, [*Verdict, *Damping]))


@pytest.mark.parametrize(("state", "event", "expected"), cells(BELOW))
def test_cell_below_its_threshold(state: str, event: str, expected: str) -> None:
    key = DAMPING.get(event) or LETTERS[event].verdict
    assert SYMBOL[TABLE[STATES[state], key].below] == expected
    if event in LETTERS:
        settings = Settings(fall=99, rise=99)
        assert (
            states(walk(event, settings, start=Health(STATES[state], penalty=10 * SUPPRESS * (state == "H"))))
            == expected
        )


@pytest.mark.parametrize(("state", "event", "expected"), cells(REACHED))
def test_cell_at_its_threshold(state: str, event: str, expected: str) -> None:
    key = DAMPING.get(event) or LETTERS[event].verdict
    assert SYMBOL[TABLE[STATES[state], key].reached] == expected
    if event in LETTERS:
        settings = Settings(fall=1, rise=1)
        assert (
            states(walk(event, settings, start=Health(STATES[state], penalty=10 * SUPPRESS * (state == "H"))))
            == expected
        )


@pytest.mark.parametrize("state", State)
def test_inconclusive_changes_nothing_at_all(state: State) -> None:
    health = Health(state, passes=1, failures=1, penalty=10.0)
    assert advance(health, LETTERS["i"], DEFAULT, 1e6) == (health, None)
