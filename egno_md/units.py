"""The one unit system of the library, and the factors that lead out of it.

| quantity | unit inside |
|---|---|
| length, positions | Å |
| time | fs |
| velocity | Å/fs |
| energy | eV |
| force | eV/Å |
| stress | eV/Å^3 |
| mass | amu |
| temperature | K |
| charge | elementary charge |

Only the doors (ASE, OpenMM) and the file readers and writers convert; everything else is
already in these units. CODATA 2018 values; the calorie is the thermochemical one (4.184 J).
"""

from __future__ import annotations

from typing import Final

_ELEMENTARY_CHARGE_C: Final = 1.602176634e-19
_AVOGADRO_PER_MOL: Final = 6.02214076e23
_ATOMIC_MASS_KG: Final = 1.66053906660e-27

#: Boltzmann constant, eV/K.
BOLTZMANN_EV_PER_K: Final = 8.617333262145179e-05

#: Acceleration in Å/fs^2 of a mass of 1 amu under a force of 1 eV/Å.
ACCELERATION_PER_FORCE: Final = _ELEMENTARY_CHARGE_C / _ATOMIC_MASS_KG * 1e-10

#: Kinetic energy in eV of a mass of 1 amu at 1 Å/fs is half of this.
EV_PER_AMU_A2_FS2: Final = 1.0 / ACCELERATION_PER_FORCE

#: 1 kcal/mol in eV.
KCAL_PER_MOL: Final = 4184.0 / (_AVOGADRO_PER_MOL * _ELEMENTARY_CHARGE_C)

#: 1 kJ/mol in eV.
KJ_PER_MOL: Final = 1000.0 / (_AVOGADRO_PER_MOL * _ELEMENTARY_CHARGE_C)

#: 1 GPa in eV/Å^3.
GPA: Final = 1e9 * 1e-30 / _ELEMENTARY_CHARGE_C

#: 1 Å in nm.
NM_PER_A: Final = 0.1

#: 1 fs in ps.
PS_PER_FS: Final = 1e-3

#: ASE's time unit (Å sqrt(amu/eV)) in fs.
FS_PER_ASE_TIME: Final = EV_PER_AMU_A2_FS2**0.5
