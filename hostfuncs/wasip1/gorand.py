"""The byte stream of Go's `rand.New(rand.NewSource(42))`, which wazero gives guests that are to have no randomness.

An additive lagged Fibonacci generator, x[n] = x[n-607] + x[n-273] mod 2**64. The table below is the generator's state
right after seeding with 42, read out of Go 1.26 (`math/rand`, rngSource; Go is BSD-licensed).
"""

import base64
import struct

_LENGTH = 607
_TAP = 273
_MASK = (1 << 64) - 1
_SEEDED = (
    "J+iblwMZKf2r6lUMHsEXRUvpc1KwB3dsMoPyTbESRuXOXNQOG/iA5Lt0dU3HDumcHFu5qdysBquMjbsmgJoJkRP3yRX4UZ1lmIrhq8PYrSbetQoQ"
    "I+SIGW9l32pkYarrzADB0308UwdbBu1Qbpyi0lkKr2IC+pHux1cRTgk/XUhhSVKJ0ng8aYmLtH40IPXTTylfXrjeSBGZ8M/13109viJJZl2anQ+E"
    "NAkhSZnI6SssAmOG5U+4QGp8Rz6xeD6f7cykjp56kQw+RFL1aurCmL9yohoz+yXDAFrOLErs0z1zbsgklOwp04hGakmoCXTYw8VOhcRjXC9w+Vvk"
    "BhB18asaIilqdubPGEtG9G6Yj1dvXEy2ShEAdMTjLnnW5JlwlUUlMk5sdURI1NJeiPCkrse9wpmJInH75UrQEKtbpfdTnybM6QQg2fJ7NzNMa24L"
    "015dcOgW75PtwdFounYeyp5Hd/DXASrFzrERcutiQelLf/gQVdm+ZwzYAVS657pM+PpNKSBU+plUDXKBjp+kiGDzWumkhhkdKKsUYEJVBQyXvI5f"
    "nOuxCrqUp2BbaWvgTUi/H1bR4CsfCOKJvWZE4IFaRvaon2P56gBiFK6dY57HuL1a82vd2Q2S/vuISzeVZvDpdebPAjzrxZp3F7nwci0yEmQVH8aP"
    "h4+OoQ+rpPNZqhMU2J/xh7fX7NAWENvzdw4q/E8JZawLsJIynbtR1kkig1GPUDEQB0W8nQ6YHKNuZcr7P3dcEnWsZTAAVkDvg2ZElOMTPtiAXfJr"
    "uqudyEe7qEpZxWaZl99gePa6hHbx74trwkUSMaPCTuVrFIgdeMlKI61Oj55xJ9km9BZ8bnnzsHwyHszpOmwW/Ha2piAcZG6J87YsbOQyD4J3aNHp"
    "W8pq2bLEqQ+wYeEWGuK0EgNSAptqKx96w4cSYcc/yVFdV029DVwpvg+6ID4TbJt8J+njBTkzpUTE/D8CKs7QRS7h3u32Qgu3fErLs3z1GLER8AxP"
    "uz0Kcid6aJioT4904/HQlSe/3gTf5lnKWdQmzbMpce5W77RvOJsFkaatXpGjD18cfK2n2BfdEzOo0kyRkGlvuRRzpOC+gv5QTsmb2WBb+Tk+usi1"
    "mFdux0NPNYCWypqVVT2dSMvQShDDFaq0w8QYSjCKOO7jKn9ugKmiDbcCWgn679HY2b3VF1kGYs9x6CQPezXmLCr8/g6E+R2tJN1ypygPbL0abP70"
    "+nZ6QWvdjK4Cv0eonHps0yCdIZKKOl4vMGXlRyjGp/b7I3w4ZONG7xfp5SOE1k5MgSw1iLo4G+YDHpIxOHj4lLbKrRWA28k5PQo9FnWnc4FLFiQw"
    "gLN1cQa+QhJtOakiN8ASt6gPpVXMtiufUTFCnPBsl30D27vvg5Ldh8KZ+9UWk+4OqCfJyLuZt97OhSzRPdOgfVMWMZDekpapDkBMwPmWdIudY2cl"
    "qr29kZsaQUOKy4+HwfUsmrW5PIUqNGFiyOcgcGVK76verFdyQhyvnZThPVsO7CbNa+cb1KAlzS/RaAYjHfxKQxH8+Cr5zphRtZMA4CzIV4ImAMHA"
    "i8y+UvmSbZ+IJiWgqf/aBCM1QmrimPCqKDQOVpht+PPjwfZIQkbhOVqxjf9TNKgpDHRbFufv5/kFkHoL+pgXaSIugeR7q/LecrzlttP8P90n9U81"
    "up12me5/qsxKNP0IKcznF7BxMjvB1fFZamY2OPzEv9PadUbl4/NsgQehRs1e/Tnp88uhUQU15qAWnMkvOgi1nPFK7FJ5Afl26Yx/9kXUw9z7MUCh"
    "/V0xupYrneeeYMBOKbUG5pLqLE+2zcbvdAPH12vV7+p+2hJrcLb/UGUexzbQrKJgMFF/swhhf/Zlg1q/S8Kq1aShyTjDsCCqsOoFzuejLtcgksdX"
    "l2GL8fa0vXOhM5EWiXWdQ46Ar1UAcbMFIlnPAYfArE5U8WNNQUnvHdcwUlld9/Sf66GBoIG3B84Pui9Xch+T7PI5cYn8qrY4By7IJLdSfYhx2eiP"
    "jCnqmjeeTS88xba07lPcXHVY7JUkeWfV8zOaHmwM1yxFMsS/trhJNiNuocqagHefA1Fm+akKyt0s48pbcVAeHG4wGrQMiJlreUjeBsLCsCmTYKIV"
    "kpykuPNju67r6Ak+nnoumWpfAVinqK4g7FL1jFfZEPNzHd5N6E8LqUzlb+7St5nk83Exxf58LuiCd/R9vSQRBv/uzPk/934TfCont3BQXL1vF1QV"
    "Pe8SKNkTaD1MNJd53sESI1INDR+hy5juOYGaKJQ6E1CtuGdZVEMwFArfeX2BIOaDsPy9RCp34aYs2R7zyfQOCQ9AZvqzFKzpHPBnfJAFjFIUq6Tq"
    "WBktBIEzeCzr9Tgd6MIKq/RM439aS8s/ZhdYHCteMEQEOxgIoabGQ8/aBo88RW2ZzawaSkHAyf6P9W2xoDEg/E5u5MkTRBdQ2rK+fgZDE7PEklns"
    "ggF1fb1xvJvntRGwaDRoe2u7yr/uv5xb+VsT/aDjzTWHyBokwl9lJKKMHbdhhQ+H7S3payjK73emnEGqaMNATiZHGNCppGcJM8aFM46UwO123Uzo"
    "uZ4Ig5V64jN7HfohULBYKbuU8QbBky8M4WpOBfehQqXlxg2UxyaUJ0hDv4XsVIuJOgRQCb+AYdQ0LbiDUnyISVpcnrmMIP1AmmkwaLNIcp+DkiVL"
    "JgiDFe7qsMUy/chUGAx9BFXCmUaXz3b4WMx5X3ROuKhP4JdgIcRd1Axe5BT9pw2ihbUqXJ+0AWamRF+1atIjU4Xdt/Z409nbI6thLc7KV67NeJaO"
    "+Ll8aYjXcO/0Tt/TqeTIORlYSBeGRyFzipLIPJXp7ZXDfG17863GA+M7bailjtMs+6BsGIiZMsyASCbeo26MlyE7JdLvGdnfxl9cMJqP9dmUEHx6"
    "+NGnza7mw2v8LaLakGRewhj894L2OaWDeqcFuLYzowvdBb72nn0tYpNWjUVPcCtukABZweKzcbMm21plA9vgv558FcfQHqeuraDu83adUOKytMXm"
    "jPG6cjU5wEOgn7H5vrE6X9QG5YulpI216gt/uRhvBfD5ZfLquuBASD75sqzRbtJQwJZ7usWXI5SGPt/Wsr+AjAZOpi8JQddo9HJYdt0RelA6CsDx"
    "eBTdb9TxVYFbVYpHvTm4Xir8V3IRT5N1/WUunGZgQZubYqiPogLh7WIlj+lnoXMfeDDEZkc9+6mnEW9unwtWeksybmjMm+IDkdu133HuH1Q7ugQy"
    "n/FNlIkB8vdPJNGSJ07MgKJdWJOYm3P+GMVk+2X4O5Man8i6LmXdPvacRtTn1ewVn2vhbpSnHdV/XVV05FdupY+sfNW3YxOJEKqAgwrdepFW/qm5"
    "4OP6zRPXlkW6O9m2jHexCum1b+RbN/ndDr1b+tUEHV+e4CyojlLHO1fG+Ld/iEXKMEFa05JBXspylxmogZUDnFnwog0//E8i30I10FX6nZREQbQu"
    "sP3iC3tw0Y2UrsiKIC70i41waigxnOzZ7rArXQCpQoSba3HHq5lP1VROgr2A3to2jV0v5/Tq3OOTGbFyOtmOlIfMIp71IGmTZEd4uaRg8l3OoOY5"
    "kBMuNEvq+qH++osJUt9EYsCluXbvpm2lszlJ/71aIkGV59HRVnNWrkXNfbYgPTCEHSZMf06UOrjChihkZu9shekyCIwhSX8TdMR+uhimzNT9rF/f"
    "meYdMZb9el3WU1O4ko6xLoBcv7fY6VrBQhy4KT+1o9shXcN6RW4/C+RaHflsj0iacBu9e/vQa2d8WNE9dPyJh1/vQdyYefoRrZbg1vIhOMtTHlnU"
    "4PC8GwqF0WwxSr5sbZtxw9l9ZBLTR4kCZx4/NIFQ85uC4qp2WwB5u+/JACViLItzVpBUh2hrt6XuRANMDAZ/10vEfI18oeTxQz0HJq2qixA8PHii"
    "ceZ9H53GWC/wqRMTwS9DtP8b2cOleOkHyk1zQWv6wE4p+BaY9zpL3jhBhPmBxOBmcGClVPyUMsn+8+ZZ4zsAipNuLhV1wQqSc5v52Y20gJe0fvJn"
    "uQfxi0May4SHS0tARBl8WAfFyMJbvlWxufGVcecsxrq25CNAQXWnmKeYpdsUpJQjT0gQl5XzyaA8nnKYuS3nCCbkFAwLXld26YGBDQpsily55It0"
    "PZQr1fvIuwvdHAAxuHZHwdVNm9rDY7RSzaWMzGEGBPyFef1uyiNcZtGDFSfU3TxiyODOccYyxL7jOFKJbt0at6J/fj9y31miaV2i5UBH4Bhql/Wp"
    "tdIyNVLwHXpeogrU+tM9kzLhZkeDFj9Z8ruI06VStmHMRSJ7jGy82SxB1CAgTsKLfh8pzSaa3Wth7DyJGToeBUJfc/j24Xb9YJ7yjN7Aqye+nkZg"
    "e7G1FNzl0Lmd2CZ2DhM9pA0fdzlS+3wWSQxhNeZsay82bdeqxPG06ft39L/E3HfXanZaPY5rl580jGL0nlJQKuN5MVyWBOdnRVDwLhMZHL/axiMz"
    "BNeskZTSLvHrmz/YrjvpbLUmJmBQPNMC2H+0VcC5fVd+KPNtEJlS7jcQ5ilZJibl/DX/QF58xuNNc6QVJ0gqB7senhDZ02TlluyjfCwkIsPbz60F"
    "yQLQm69YBW7vonfcfZs1UaHqUKLFsUjEQp9tszOa9sx6G2VjGW8xDIqmiJwmml0f4t7a1gauw0APTXuTXcr6wp1+JXtIlw8mrGmE7iLJjHmNI4kb"
    "BbhBBZqZbtkJtDFaACy8DqTuANOdy5m/jyyTY8yWjQYcq6gc08RBbLkuE1RYoU5gD2YuRoHVdZFQHRx7mx/ZGUnnTPaZlKyLoc9mJOPIF1MD39Cw"
    "CqMs4FZxLW6OoVCTdc3bDFlQoGXTSVBlGcaIkii/ziGUcODo8Ca9js6WCZ66XXpF4J7ZbeXDJuYKhtGNK05gWBJWuGIXK/B586s/NY9lnI08bRbo"
    "t6ccmMvO71NwfQd4KNiF2JdzkqOaUWDzzjzvyYcaoyrQ8Hd5gr+rHa6VVqcUG1Z0q8p8i2kYXoCdEHNVzYDZ9zC/22JG0gezHvhydgWjegevi5so"
    "ZHERvtGgqU5KRiLi/gNgEHz+arpVdpH9JHKvMNI/sbUGLLZ4khhXB7IMlggxiMj6z5QISS4VhsqXUB45/Tdbzv5ebI5MgzkBI0i3R3FSPd3/JUsG"
    "isSDrj/peJrOmW6Q11eL0CKyxl0xOxwcMnxF+RzaMEdKsPyS1pyd155YJ0nohzwKH9mtfPHETNnNb5DLlzKWIBysYLDCrgT1eYEn3HqGA5fFUknE"
    "OsL3G/tTt1ckp1t2khTXKzM/vNOYEoe5krD8kjzWt087AZrJ29pYebmAxc9JH6u0RXID4D6HuuEe5FmSgPxHOuutkyvt/FdWPOL6dhTxWJCKfnWl"
    "/ENYnjJLQBDinYSwhytLAlfjeW8fcSUmuEH2GAGRVZSn+OFyTneJkPe4kvltXs1y6gpSLRSfWbKHE6Ueb0Z4dTIXAGsNZbFMaVK25aQUVqs/b6FW"
    "rbYZ6hygoFubRDRdGciAfBPODJzqQ4tZQeFT4DyeV8xFo1gHtp5hP9IBQg4i8YBmnf9/38dz9r3plcTW2+qmF6BEIH9RPvVCza/WdclQUBn62spX"
    "8htfG2UnsrX6LP34pjqY8DHs2GzPT3F3wX1nWyvcypTiJLnetn49uLa3jOD4olYX5Q12edFeOd8dAv9zNQqBflG5LTd+jRwWw43BFKiPu4vlDbWb"
    "2gjwbx/BS3Xpv31Mbm7ULkYeqteW0wFukrUkNlL5KbJswobOrG4ZmcUkqv6sUJNijK2/DZn9pxo36pwpSHmgj35dm4oVYojt7NMWZf3OM1ANqC5d"
    "BiYFVFmqMQn1V6sQz3/GXp8472wUNFwB0BS3+bIF2BjAneAX8x/VV/0Ch4J9rMSvnEZEcX3BwZDEnvjUu2mspVNTvezk83FJhdmXxDkmSjSIa/QT"
    "joMyJXR1ywsHFUtrWZSojnmfYbv79ahDghQVjEiC2aeIHeJ/pdFBxklkfxwDPVn1v6mwH/vPqhJigWcwGGix+FmjBPFZT/jC9s9qaj2lqR0Ra2Ht"
    "XzsPr0aX88747egeX8OuNA6a9Yq2T/r30/BjFdC4pdzuERIxKPu5DoEy3IWFhotplqP9r7oBrVWid9iOVDnrdyMGqfzBdH7YOEhwohw95dqmb2ss"
    "iE23hlMs0GILUOGm9c2j8EQ5Sn3RkEIJwTs8e3wInjoT6ZbK0JjhzRmLQH+U7fMzvOswrlllxfFEllkwdiD0YIbqDVY22XyzmZnFixGlLMC5i5hC"
    "56ogPZvX8TLoS6Oe7Ffx0Conq8eoljV9Di6PWpeKj1ygB6qW/fw2mWap6pRcMj9FHjM0rlRd7eNv+MD27ezh/6nDeua6Hdk7ecUJkX17Hj5A2Ray"
    "wJ0kpUVmQ77z1mwmf3EZrxfroT8c2lXBcsng0wk0W85DbCq+Xi+KX+lDOF1owYDd9pQjZies3ru3msEVGbPwASqYnBE="
)


class GoRand:
    """The stream from its beginning."""

    __slots__ = ("_feed", "_rest", "_state", "_tap")

    def __init__(self) -> None:
        self._state = list(struct.unpack(f"<{_LENGTH}Q", base64.b64decode(_SEEDED)))
        self._tap = 0
        self._feed = _LENGTH - _TAP
        self._rest = b""

    def __repr__(self) -> str:
        return f"<GoRand tap={self._tap}>"

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes: of each 63-bit number the low seven bytes, as Go's Rand.Read takes them."""
        pieces = [self._rest]
        have = len(self._rest)
        state, tap, feed = self._state, self._tap, self._feed
        while have < size:
            tap = (tap or _LENGTH) - 1
            feed = (feed or _LENGTH) - 1
            number = state[feed] = (state[feed] + state[tap]) & _MASK
            pieces.append(number.to_bytes(8, "little")[:7])
            have += 7
        self._tap, self._feed = tap, feed
        data = b"".join(pieces)
        self._rest = data[size:]
        return data[:size]
