"""Written by `golden_store.py`; not to be changed."""

TEXT = """\
c-qZaOK%(36(&Vd59?vMe#Iz|3d*7n)PY8_L`g;Kv}g_V2e?RA#1-d~oNzcZo*C+81gK~ihz%6AStlsaAOI=qK|LI!O}EX$1
9TC%T{UQc)aWAJ7F~JW`<^>5%Aph>^1_^Z&pG#;?>z1~x8AP6b?15NwLjmsO$)Aq^|zO<E!og<mzJTfH`==9xDUOw^2f-&+G
uY$&~13<QuuH9Epz#*3U#m!Rc}nmEzZr(&n!$Uv-9(Ritxf|%KU+MG2P01{N_y}Vi1e4bf6htdfIzM+Bt)F;F_h`no$aGj^I
rlV13ciX!DY^If^%HhIXq4@z!N&YYcChwhC>^c0t-3$9qMf+1~l-*Jne2N<hq6a=cd6Tr5V3F*e7Mk`)^wirFP-xajaGyyZr
_44m@ksS94e1xiT!oR`HvRIg7_yo_sFc&VQ#nO3|Z8-hX^s?*q%K?@oxflBd)9lTs4*q|@40yG4cjsz}v!v$az7;cI;V1b%L
en!=Ki>q_V8<BC#Q7E}#!|3C3y=gYhR-u}19J;`%yv}I{Z%-LhOUm1uO(Wxt2E6tI>PZQo)GLi6!Yybxd%aoSY?hlV%~GQYT
2DJvA?|@W>J%<%1S_=J(zV7Gu(akHQ;Ab^nN%GSVLzo&$Aw(M>eO2h{5_TGyZ=wMe6ywcznPwbS;!;-<|F)lBJ`YW<CVr^!s
`<WW|B{ZvZkxvbwWGA884%ci}jXSY_9^%ZCT)9M<h;TpUNYALe?2632d4cT-eXi$EA9+cDK3ux77T9f7Mjq?T8TBWnt8@p=+
;`6}x5_ctr$Nvx5HFPg}P8?EE{819Ch&N}N9;*9ICf!(4$e>L3T>iPm1+_>{Sb(}%2}8FQ895Es&qt=Mc@gIobhC0K_<I{%Q
SH)lMHJ}%T-#nnu!SlMx*0Svd%Au<TL2-#NEd6v0Ly+TXWcWBL$-FcD0PYF10v?7=+xf@>E45ZUXQBvLH)gzF1eadV!Ni9x#
o`za5{zy^2c5QAR73GE5=uuWFN9+9`WHV*d1AYu<Ofa40fD5SYJ0g&@Qm_Y;CW@W4!Hq=KFP)2m;3QP4D<o~U9T&LJ5Al|3K
Mm^gEkyUtJ8^Vv8yJ;z$kdA%=*=*B2%Roxhl<2c5ao~VGD@-hxTqPLgEB4;+<eucsq*ogr5#lC9n;udUY{%jLnR9K$!Oxbnq
%U4Ht*xIf&R~%hEzFP6;1xas>xnF4m}<fQ;6=>`j%RQBA*$Pe+~IT@NGo>S~Aw3T>r;S@)wB01jMD7ji-plk~>Xf<&if)Q$P
N;PsQGdHIc&=8L24Y8V}fS#Pl*_Gq_WlTb#k2(p;bmTQ%)Uw=RtAvo7qBca{jxVBw@%2YRrDX>Wq;_v3xXFwG4ZBKS*0G+ZI
VXu;<?j6X^bZ0Tlc2Tbak0iy~PDP@ED!*t8grVdw4Bj^G`UYg;ON2JrDVnsVN!P_B)w?paqKv#phA0~zLI|Z|9>5%khGv2Vc
$fBK5zY2jGi!tkc-uLYwfs5i>F8&wTy+QVa*EmIiUKo9G7X~E=GEpy5rc4|YB?w-R%(dU8&X&0@v8$0$1g}P7I<+YqYZKlNU
gsR+?-9ZQnd>sU!8r+Mj3TRxT0Rp9$J}f*QglNk+)S*S#O*gu4H1ToDGSrH%IqA@vE1TEQO1%&gYZ4c!;<49cgP_7$jN|26_
;)-C022V$Cq@_Uy%iO?j4~LX1n3C|I5cZD*G^BGh9s<>o0D6whLSrRxLNZgXKbdkN$U6VWm(+|F&yZppia8TDd6v^Yl}$+Fv
v`9w8Ne{OfIUbXJINyXzL*{{_%%@MpGd+PhWgI4BQWhS_m#P=L#zQ0V}dl!r-0#&HJ;{NR3qO^2vf)^s;tFjZLCvcYPvMv8=
wH?q0$yKE|zaG@4b=wK-b-bWh$=H6GQ$!M}B2{7HBGAmO{u3dw2>i!4m*-Sz<>4YB5YU2}Gbi^CRx{@b`ImtvhlR7NACyu2+
;rT66pn9*Rm-@Eg%JM*hHUB!s8a~h<XQcXG752menXB&=kyfr|8lPPMH?4JT!$gpjfnE&MhWF4`<9?6nn@Wf$ab4}wQ=Ifm<
S}!`wvHs&hkoq=qI1ZqxJ?PY*`QT?dZ<Z|`9<x{>JiHMMVWGyQvTk{7A4BLMN;V((KYU$FUAwJ%4p@<?Pb>}ZJ=wC&MJt>N@
@ou8g0zg5pD5-&rtRIiu4L;Dr|(XgMVclcni&0IWJq#&4RD?3{#MRO;}2{S+nr9l!YtgJxB2d9Ia#k9sPXbABNh)8gv?41h#
%+Nk6tyGQie_0c0Ra0Za4V*xW-!Q3q&@LA`td(QXq_B!9LEUE2Uvh@Uv<XT53k(OpM3U1!&Z1vCdapQp~%w-5}^Q`wfL9tB2
^Homh%&k?&8Sl3PI?q}y>)sG4&vLeBKa|g$2&3T?03=c8L>|5t{P;AQNw9kKoCR0)|lt-2ap_zx-Gl=Z*9ZYPIo<e%C1F_i1
myR?PJu!_uUCpEE1w)3_5(a03V-_}dBHmnPZ7O~eV-^h{iw>m0l-Lw_z3Rm~gw=Ui7xA)Hf$Pn+uo3>$gv~e`Z^rfiMa+1>l
pjLM@9{B@Xzo9%^q}^>t5u;{!)wnnclWTAJkpyz*c_1WRj8H9Zl=2>;|Z3qIWxhM1L++>asylG!JY$F>GM^vmgy91l<@dx`j
Cjk3Sh68-EA3r>EL=GCCR=&suEM=7rR~pigMl|VN^jHVeQ`)4~Ifw>GI-Fh@u<qtZIg8t|GDI2@-XJ$glX8#qK`;PInYWdqU
w*e#0R+1RtBbA+cLV4G^>)@(7K1OAdX9KCU3fsz1`Z`uq(+QlBsN;K(Dw3mvgcAGaUlZV$I#q4n-oo%zyMiE76llB6_aD?Ql
sp$Iy8<He0nBiai>to?96dqn<H+VA^MRB~dGg>Jg<S+-`{n!7&OQveNpX{fXOswB6KbXAh?lU(_+3J&(9;DOZYOR>OKl9a^F
)Nx9V1{;5@;y`y5#R$RL?W9p7+_opQ|FXr%`DO`0>vSD0wjHp7AE|N@Kzn@nlWtf1c@k*Gr3nw?l06k%K6^=AlIGNy<}Wf@?
m#?0IuB1eVumIu3GaP>x|7nIE}TL*1}jj1r~-Wv0zNeVoe=mKfa$oHj7CSiR7v%Ne4hpuqBFo)WRAh&bb~N}#aA9w9q~9O!A
QPOA&vd_Ck$iX*D;szi=WqzAKfC)f61Wj@#i_Y@}bX@KsFW!S^8@W*@*NE7y|15;3DV_
"""
